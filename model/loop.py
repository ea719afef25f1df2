"""The training loop."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model import checkpoint, ranks, restore
from model.checkpoint import Description, Identity
from model.engine import apply_step, backward, loss_scale
from model.evaluation import evaluate
from model.guard import Guard
from model.job import TrainJob, planned_bytes
from model.journal import Journal, Rollback, StepRecord
from model.loader import Loader
from model.machine import machine
from model.meter import Meter
from model.parameters import flops_per_token
from model.samples import sampler
from model.saver import Saver
from model.schedule import learning_rate
from model.watchdog import Watchdog

logger = logging.getLogger("piledriver.train")

OnMetrics = Callable[[StepRecord], None]
"""Gets what the journal does, on rank 0, and the lines of steps that are repeated after a kill."""
TransformLoss = Callable[[int, Tensor], Tensor]
"""(step, loss of a micro batch) → the loss that is trained on; tests make a step overflow with it."""


AHEAD = 4
"""Steps whose samples are read before they are wanted, so that a slow request is not waited for."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a step."""

    loss: float
    """The mean of all ranks."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    loss_scale: float
    reason: str | None
    """Why the step was not taken, if it was not."""
    bad: bool
    """Whether that is a sign of trouble: the ordinary search for a loss scale is not."""


class Loop:
    """The state of a running loop: engine, journal, clock. All ranks call each method."""

    def __init__(
        self,
        job: TrainJob,
        loader: Loader,
        engine: Any,
        identity: Identity,
        guard: Guard,
        *,
        on_metrics: OnMetrics | None,
        transform_loss: TransformLoss | None,
    ) -> None:
        """Open the journal and start the threads."""
        self.job, self.loader, self.engine, self.identity, self.guard = job, loader, engine, identity, guard
        self.on_metrics, self.transform_loss = on_metrics, transform_loss
        rank, self.world = ranks.rank(), ranks.world()
        # Workers that share layers train on the same samples; they have consecutive ranks.
        self.share, self.shares = rank // job.train.tensor_parallel, self.world // job.train.tensor_parallel
        self.journal = Journal(job.run_url, job.check_claim) if rank == 0 else None
        self.sampler = sampler(job, loader.corpus) if rank == 0 else None
        self.threads = ThreadPoolExecutor(1, "loader")
        planned = planned_bytes(job, identity.model["vocab_size"], identity.model["precision"])
        self.saver = Saver(engine, job.run_url, job.train.checkpoint, planned, job.check_claim)
        self.stalls: list[float] = []
        """Seconds for which each checkpoint stopped the loop."""
        self.evaluation: dict[str, dict[str, float]] = {}
        """The last one."""
        self.watchdog = Watchdog(job.run_url, rank, job.train.guard.hang_seconds)
        length, vocab_size = job.model.max_sequence_length, loader.corpus.tokenizer.vocab_size
        self.meter = Meter(job.train, flops_per_token(job.model, vocab_size, length), self.world)

    def close(self) -> None:
        """Stop the threads and close the journal."""
        self.watchdog.close()
        self.saver.close()
        self.threads.shutdown(cancel_futures=True)
        if self.journal:
            self.journal.close()

    def run(self, step: int) -> None:
        """Train from after `step` steps to the end."""
        config = self.job.train
        self.saver.saved = step if step else None
        self.meter.reset()
        pending = deque(
            self.threads.submit(self.batch, ahead) for ahead in range(step, min(step + AHEAD, config.steps))
        )
        while step < config.steps:
            self.watchdog.beat(f"step {step + 1}")
            waiting = time.perf_counter()
            rows = pending.popleft().result()
            self.meter.waited += time.perf_counter() - waiting
            if step + AHEAD < config.steps:
                pending.append(self.threads.submit(self.batch, step + AHEAD))
            outcome = self.take(step, rows)
            self.meter.steps += 1
            step += 1
            last = step == config.steps
            evaluated = config.evaluate_batches > 0 and (step % config.evaluate_every == 0 or last)
            if step == 1 or step % config.log_every == 0 or last or outcome.reason or evaluated:
                evaluated = self.report(step, outcome, evaluated)
            # A checkpoint among bad steps may hold the weights that cause them.
            if (step % config.checkpoint.every == 0 and not self.guard.streak) or last:
                self.watchdog.beat(f"the checkpoint after step {step}")
                self.save(step, self.evaluation if evaluated else {})
                self.meter.reset()
        self.watchdog.close()  # no step is left to wait for, and to upload and export may take long
        self.saver.wait()

    def batch(self, step: int) -> Tensor:
        """The rows of a step that are this rank's, [rows, length + 1], ready to be copied to the device."""
        begin, end = self.job.samples(step, step + 1)
        rows = torch.from_numpy(self.loader.batch(begin, end - begin, rank=self.share, world=self.shares))
        return rows.pin_memory() if torch.cuda.is_available() else rows

    def take(self, step: int, rows: Tensor) -> Outcome:
        """Train on the rows of 0-based `step`, unless the guard refuses it; all ranks decide alike."""
        config = self.job.train
        scale = loss_scale(self.engine)
        rate = learning_rate(config.optimizer, step, config.steps)
        loss = self.accumulate(step, rows)
        norm, finite = apply_step(self.engine, rate, lambda norm: self.guard.judge(loss, norm) is not None)
        reason = self.guard.judge(loss, norm)
        bad = reason is not None
        if reason is None:
            self.guard.accept(loss, norm)
        elif not finite and math.isfinite(loss) and self.engine.fp16_enabled():
            rule = config.loss_scale
            bad = rule.static > 0 or scale <= rule.minimum
            reason = f"overflow at the loss scale {scale:g}" if bad else "overflow"
        return Outcome(
            loss=loss, learning_rate=rate, gradient_norm=norm, loss_scale=scale, reason=reason, bad=bad
        )

    def accumulate(self, step: int, rows: Tensor) -> float:
        """Forward and backward passes of one step; the mean loss of all ranks."""
        size = self.job.train.micro_batch_size
        tokens = rows.to(self.engine.device, non_blocking=True)
        total = torch.zeros((), device=self.engine.device)
        passes = len(rows) // size
        self.engine.set_train_batch_size(len(rows) * self.shares)
        self.engine.micro_steps = 0
        for number in range(passes):
            part = tokens[number * size : (number + 1) * size]
            loss = self.engine(part[:, :-1], part[:, 1:])
            total += loss.detach() / passes
            if self.transform_loss is not None:
                loss = self.transform_loss(step, loss)
            backward(self.engine, loss)
            if number + 1 < passes:
                self.engine.step()
        return float(ranks.total(total.double().cpu().reshape(1), self.engine.device)) / self.world

    def report(self, step: int, outcome: Outcome, evaluated: bool) -> bool:
        """Write and tell what came of a step, after the evaluation that is due or a return to a checkpoint.

        Whether it was evaluated.
        """
        begin, end = self.job.samples(step - self.meter.steps, step)
        length = self.job.model.max_sequence_length
        finite = math.isfinite(outcome.gradient_norm)
        content: dict[str, Any] = {
            "step": step,
            "time": time.time(),
            "tokens": end * length,
            "loss": outcome.loss if math.isfinite(outcome.loss) else None,
            "learning_rate": outcome.learning_rate,
            "gradient_norm": outcome.gradient_norm if finite else None,
            "loss_scale": outcome.loss_scale,
            **self.meter.read((end - begin) * length),
            "system": machine(),
        }
        if outcome.reason is not None:
            content |= {"skipped": True, "reason": outcome.reason}
            content["samples"] = list(self.job.samples(step - 1, step))
        if outcome.bad and self.guard.refuse():
            content["rollback"] = self.roll_back(step, outcome.reason)
            evaluated = False
        elif evaluated:
            self.watchdog.beat(f"the evaluation after step {step}")
            self.evaluation = evaluate(
                self.engine, self.job, self.loader.corpus, share=self.share, shares=self.shares
            )
            content["evaluation"] = self.evaluation
            if self.sampler:
                content["texts"] = self.sampler.sample(self.engine.module)
        if self.journal:
            record = StepRecord(**content)
            self.journal.append(record)
            if self.on_metrics:
                self.on_metrics(record)
        self.meter.reset()
        return evaluated

    def roll_back(self, step: int, reason: str | None) -> Rollback:
        """Take the weights of the last checkpoint and go on with the next samples.

        The count of steps goes on, and with it the schedule: the samples since the checkpoint are left out,
        and a step trains on the same samples whatever happened before it.
        """
        self.watchdog.beat(f"going back from step {step}")
        self.saver.wait()
        url = restore.latest(self.job.run_url)
        description = checkpoint.read_description(url) if url else None
        begin, end = self.job.samples(step - self.guard.streak, step)
        first = step - self.guard.streak + 1
        where = f"steps {first} to {step} (samples {begin} to {end - 1}) are skipped: {reason}"
        target = self.guard.roll_back(
            description.step if description else None, description.guard if description else None, where
        )
        assert url is not None  # else the guard has stopped the run
        restore.load(self.engine, url, self.job.train.zero_stage, self.job.train.tensor_parallel)
        self.engine.global_steps = step
        logger.warning("%s; going back to the weights of step %d", where, target)
        return Rollback(step=target, samples=list(self.job.samples(target, step)))

    def save(self, step: int, evaluation: dict[str, dict[str, float]]) -> None:
        """Begin a checkpoint."""
        begin = time.perf_counter()
        losses = [values["loss"] for values in evaluation.values()]
        description = Description(
            step=step,
            sample=self.job.samples(0, step)[1],
            guard=self.guard.state(),
            evaluation_loss=sum(losses) / len(losses) if losses else None,
            learning_rate=learning_rate(self.job.train.optimizer, step - 1, self.job.train.steps),
            model=self.identity.model,
            data=self.identity.data,
            world_size=self.world,
            tensor_parallel=self.job.train.tensor_parallel,
            zero_stage=self.job.train.zero_stage,
            files={},
        )
        if self.journal:  # before the checkpoint, which stands for all steps before it
            self.journal.sync()
        self.saver.save(description)
        self.stalls.append(round(time.perf_counter() - begin, 4))
