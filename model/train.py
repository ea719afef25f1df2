"""The training loop. It needs a process group at most, not Ray."""

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from base import files
from base.errors import UserError
from model import batches, checkpoint
from model.convert import export_hf
from model.engine import (
    DTYPES,
    apply_step,
    backward,
    build_engine,
    initialize_distributed,
    learning_rate,
    loss_scale,
)
from model.guard import Guard
from model.job import RUN, SUMMARY, TrainJob, check, describe, precision_of
from model.journal import Journal, read
from model.loader import Corpus, Loader, bits_per_byte
from model.loss import IGNORE
from model.machine import machine
from model.plan import flops_per_token
from model.samples import sampler
from model.watchdog import Watchdog

logger = logging.getLogger("piledriver.train")

TransformLoss = Callable[[int, Tensor], Tensor]
"""(step, loss of a micro batch) → the loss that is trained on; tests make a step overflow with it."""


def measure_peak(precision: str) -> float:
    """FLOP/s of a square matrix product in `precision` on this worker's device, the best of a few."""
    cuda = torch.cuda.is_available()
    size, best = (8192, 0.0) if cuda else (768, 0.0)
    left = torch.randn(size, size, device="cuda" if cuda else "cpu").to(DTYPES[precision])
    left @ left
    for _ in range(8 if cuda else 3):
        if cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        left @ left
        if cuda:
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best


def heldout_batches(corpus: Corpus, source: str, length: int, rows: int) -> NDArray[np.int64]:
    """The first windows of a source's held-out stream, [rows, length + 1]; IGNORE where there is no token."""
    wanted = rows * length + 1
    tokens = corpus.heldout(source, max_tokens=wanted).input_ids[:wanted].astype(np.int64)
    windows = np.full((rows, length + 1), IGNORE, np.int64)
    for row in range(rows):
        part = tokens[row * length : (row + 1) * length + 1]
        windows[row, : len(part)] = part
    return windows


def evaluate(
    engine: Any, job: TrainJob, corpus: Corpus, rank: int, world: int
) -> dict[str, dict[str, float]]:
    """Held-out loss (nats a token) and bits per byte of each source, over `evaluate_batches` micro batches.

    All ranks call it; each takes its share of the windows.
    """
    size, length = job.train.micro_batch_size, job.model.max_sequence_length
    results: dict[str, dict[str, float]] = {}
    for source in corpus.sources("heldout"):
        facts = corpus.manifest["sources"][source]
        available = -(-max(facts["heldout_tokens"] - 1, 0) // length)
        # Every rank does as many passes as every other, because ZeRO-3 gathers weights in each.
        rows = -(-min(job.train.evaluate_batches * size, available) // (size * world)) * size * world
        sums = torch.zeros(2, dtype=torch.float64)
        failed = torch.zeros(1)
        try:
            windows = heldout_batches(corpus, source, length, rows)
        except UserError as error:
            if job.train.damaged_shards == "stop":
                raise
            logger.warning("%s; the source is not evaluated", error)
            failed += 1
        if _sum(failed, engine) > 0:  # other ranks may have read it
            continue
        for start in range(rank * size, rows, size * world):
            batch = torch.from_numpy(windows[start : start + size]).to(engine.device)
            with torch.no_grad():
                losses = engine.module(batch[:, :-1].clamp_min(0), batch[:, 1:], "none")
            counted = batch[:, 1:] != IGNORE
            sums[0] += losses.double()[counted].sum().cpu()
            sums[1] += counted.sum().cpu()
        sums = _sum(sums, engine)
        if sums[1] == 0:
            continue
        loss = float(sums[0] / sums[1])
        results[source] = {"loss": loss}
        if facts.get("heldout_text_bytes"):
            density = facts["heldout_tokens"], facts["heldout_text_bytes"]
            results[source]["bits_per_byte"] = bits_per_byte(loss, *density)
    return results


def _sum(values: Tensor, engine: Any) -> Tensor:
    """The sum over all ranks, on the CPU."""
    if torch.distributed.get_world_size() == 1:
        return values
    shared = values.to(engine.device)
    torch.distributed.all_reduce(shared)
    return shared.cpu()


class _Clock:
    """Time since the last journal line, and the part of it that waited for samples."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.begin, self.waited, self.steps = time.perf_counter(), 0.0, 0


def train(
    job: TrainJob,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
    transform_loss: TransformLoss | None = None,
) -> dict[str, Any]:
    """Train to the last step, from the newest whole checkpoint if the run has one. Every rank calls it.

    The process group is taken from the environment (torchrun) or is there already (Ray Train). on_metrics
    gets each journal line, on rank 0, and those of steps that are repeated after a kill. After the last step
    the model is written to <run>/hf. Returns the run's summary (also written to <run>/summary.json): step,
    first and last loss, tokens, tokens per second over this launch, skipped steps, rollbacks, evaluation,
    checkpoint_url, best_checkpoint_url, checkpoint_stalls (seconds of each), and, when the last checkpoint
    could be written, hf_url; other ranks get an empty one.
    Raises UserError for settings that do not fit the corpus or an earlier part of the run.
    """
    rank, world = initialize_distributed()
    config = job.train
    problem = config.misfit(world)
    if problem is not None:
        raise UserError(f"train.{problem}")
    loader = check(job)
    vocab_size = loader.corpus.tokenizer["vocab_size"]
    description = describe(job, loader)
    resumed = checkpoint.agree(checkpoint.latest(job.run_url) if rank == 0 else None)
    state = checkpoint.check_description(resumed, description) if resumed is not None else {}
    if rank == 0:
        facts = {"manifest_url": loader.corpus.manifest_url, "mixture": job.mixture, **description}
        facts["damaged_shards"], facts["verify_shards"] = config.damaged_shards, config.verify_shards
        files.write_json(files.join(job.run_url, RUN), facts)
    end = loader.corpus.tokenizer["end_of_document_id"]
    engine = build_engine(job.model, config, vocab_size, end, world)
    if resumed is not None:
        checkpoint.load(engine, resumed, config.zero_stage, config.tensor_parallel)
    guard = Guard(config.guard, state.get("guard"))
    loop = _Loop(job, loader, engine, rank, world, description, guard, on_metrics, transform_loss)
    try:
        return loop.run(state.get("step", 0))
    finally:
        loop.close()


class _Loop:
    """The state of a running loop: engine, journal, clock."""

    def __init__(
        self,
        job: TrainJob,
        loader: Loader,
        engine: Any,
        rank: int,
        world: int,
        description: dict[str, Any],
        guard: Guard,
        on_metrics: Callable[[dict[str, Any]], None] | None,
        transform_loss: TransformLoss | None,
    ) -> None:
        self.job, self.loader, self.engine, self.rank, self.world = job, loader, engine, rank, world
        # Workers that share layers train on the same samples; they have consecutive ranks.
        self.share, self.shares = rank // job.train.tensor_parallel, world // job.train.tensor_parallel
        self.description = {
            **description,
            "world_size": world,
            "tensor_parallel": job.train.tensor_parallel,
            "zero_stage": job.train.zero_stage,
        }
        self.guard, self.on_metrics, self.transform_loss = guard, on_metrics, transform_loss
        self.journal = Journal(job.run_url) if rank == 0 else None
        self.sampler = sampler(job, loader.corpus) if rank == 0 else None
        self.threads = ThreadPoolExecutor(1, "loader")
        self.clock = _Clock()
        self.saver = checkpoint.Saver(engine, job.run_url, job.train.checkpoint)
        self.stalls: list[float] = []
        self.watchdog = Watchdog(job.run_url, rank, job.train.guard.hang_seconds)
        vocab_size = loader.corpus.tokenizer["vocab_size"]
        self.flops = flops_per_token(job.model, vocab_size, job.model.max_sequence_length)
        self.peak = (job.train.peak_tflops or 0) * 1e12 or measure_peak(precision_of(job.train))

    def close(self) -> None:
        """Stop the threads and close the journal."""
        self.watchdog.close()
        self.saver.close()
        self.threads.shutdown(cancel_futures=True)
        if self.journal:
            self.journal.close()

    def batch(self, step: int) -> Tensor:
        """The rows of a step that are this rank's, [rows, length + 1], ready to be copied to the device."""
        begin, end = self.samples(step, step + 1)
        rows = torch.from_numpy(self.loader.batch(begin, end - begin, self.share, self.shares))
        return rows.pin_memory() if torch.cuda.is_available() else rows

    def run(self, step: int) -> dict[str, Any]:
        """Train from after `step` steps to the end."""
        config = self.job.train
        begin, first = time.perf_counter(), step
        self.saver.saved = step if step else None
        evaluation: dict[str, Any] = {}
        self.clock.reset()
        pending = self.threads.submit(self.batch, step)
        while step < config.steps:
            self.watchdog.beat(f"step {step + 1}")
            waiting = time.perf_counter()
            rows = pending.result()
            self.clock.waited += time.perf_counter() - waiting
            if step + 1 < config.steps:
                pending = self.threads.submit(self.batch, step + 1)
            scale = loss_scale(self.engine)
            rate = learning_rate(config.optimizer, step, config.steps)
            loss = self.accumulate(step, rows)
            norm, reason, bad = self.apply(loss, rate, scale)
            self.clock.steps += 1
            step += 1
            last = step == config.steps
            evaluated = config.evaluate_batches > 0 and (step % config.evaluate_every == 0 or last)
            if step == 1 or step % config.log_every == 0 or last or reason or evaluated:
                line = self.line(step, loss, rate, norm, scale)
                if reason:
                    line |= {"skipped": True, "reason": reason, "samples": self.samples(step - 1, step)}
                if bad and self.guard.refuse():
                    line["rollback"] = self.roll_back(step, reason)
                    evaluated = False
                elif evaluated:
                    self.watchdog.beat(f"the evaluation after step {step}")
                    evaluation = evaluate(self.engine, self.job, self.loader.corpus, self.share, self.shares)
                    line["evaluation"] = evaluation
                    if self.sampler:
                        line["texts"] = self.sampler.sample(self.engine.module)
                self.log(line)
                self.clock.reset()
            # A checkpoint among bad steps may hold the weights that cause them.
            if (step % config.checkpoint.every == 0 and not self.guard.streak) or last:
                self.watchdog.beat(f"the checkpoint after step {step}")
                self.save(step, evaluation if evaluated else {})
                self.clock.reset()
        self.watchdog.close()  # no step is left to wait for, and to upload and export may take long
        self.saver.wait()
        return self.summary(step, first, time.perf_counter() - begin, evaluation)

    def samples(self, step: int, stop: int) -> tuple[int, int]:
        """First sample of 0-based `step`, and of `stop`."""
        train = self.job.train
        begin, end = (
            batches.first_sample(train.global_batch_size, train.batch_warmup, number)
            for number in (step, stop)
        )
        return begin, end

    def apply(self, loss: float, rate: float, scale: float) -> tuple[float, str | None, bool]:
        """The optimizer's step, unless the guard refuses it; all ranks decide alike.

        Returns the gradient norm, why the step was skipped, and whether that counts as bad: the ordinary
        search for a loss scale, which was `scale`, does not.
        """
        norm, finite = apply_step(self.engine, rate, lambda norm: self.guard.judge(loss, norm) is not None)
        reason = self.guard.judge(loss, norm)
        if reason is None:
            self.guard.accept(loss, norm)
        elif not finite and math.isfinite(loss) and self.engine.fp16_enabled():
            rule = self.job.train.loss_scale
            searching = not rule.static and scale > rule.minimum
            return norm, "overflow" if searching else f"overflow at the loss scale {scale:g}", not searching
        return norm, reason, reason is not None

    def roll_back(self, step: int, reason: str | None) -> dict[str, Any]:
        """Take the weights of the last checkpoint and go on with the next samples; the journal's entry.

        The count of steps goes on, and with it the schedule: the samples since the checkpoint are left out,
        and a step trains on the same samples whatever happened before it.
        """
        self.watchdog.beat(f"going back from step {step}")
        self.saver.wait()
        url = checkpoint.agree(checkpoint.latest(self.job.run_url) if self.rank == 0 else None)
        content = files.read_json(files.join(url, checkpoint.DESCRIPTION)) if url else {}
        back: int | None = content.get("step")
        begin, end = self.samples(step - self.guard.streak, step)
        first = step - self.guard.streak + 1
        where = f"steps {first} to {step} (samples {begin} to {end - 1}) are skipped: {reason}"
        target = self.guard.roll_back(back, content.get("guard", {}), where)
        checkpoint.load(self.engine, url, self.job.train.zero_stage, self.job.train.tensor_parallel)
        self.engine.global_steps = step
        logger.warning("%s; going back to the weights of step %d", where, target)
        return {"step": target, "samples": self.samples(target, step)}

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
        return float(_sum(total.double().cpu().reshape(1), self.engine)) / self.world

    def line(self, step: int, loss: float, rate: float, norm: float, scale: float) -> dict[str, Any]:
        """The journal line of a step."""
        elapsed = time.perf_counter() - self.clock.begin
        length = self.job.model.max_sequence_length
        begin, end = self.samples(step - self.clock.steps, step)
        speed = (end - begin) * length / elapsed
        return {
            "step": step,
            "time": time.time(),
            "tokens": end * length,
            "loss": loss if math.isfinite(loss) else None,
            "learning_rate": rate,
            "gradient_norm": norm if math.isfinite(norm) else None,
            "loss_scale": scale,
            "tokens_per_second": speed,
            "mfu": speed * self.flops / (self.peak * self.world),
            "loader_wait": self.clock.waited / elapsed,
            "system": machine(),
        }

    def log(self, line: dict[str, Any]) -> None:
        """Journal a line and tell it, on rank 0."""
        if self.journal:
            self.journal.append(line)
            if self.on_metrics:
                self.on_metrics(line)

    def save(self, step: int, evaluation: dict[str, dict[str, float]]) -> None:
        """Begin a checkpoint; all ranks call it."""
        begin = time.perf_counter()
        losses = [values["loss"] for values in evaluation.values()]
        description = {
            "sample": self.samples(0, step)[1],
            "guard": self.guard.state(),
            "evaluation_loss": sum(losses) / len(losses) if losses else None,
            **self.description,
        }
        self.saver.save(step, description)
        if self.journal:
            self.journal.sync()
        self.stalls.append(round(time.perf_counter() - begin, 4))

    def summary(self, step: int, first: int, seconds: float, evaluation: dict[str, Any]) -> dict[str, Any]:
        """Write and return the run's summary, on rank 0; other ranks return an empty one."""
        if self.journal is None:
            return {}
        self.journal.sync()
        saved = self.saver.saved
        best = checkpoint.best(self.job.run_url)
        lines = read(self.job.run_url)
        losses = [line["loss"] for line in lines if line["loss"] is not None]
        length, samples = self.job.model.max_sequence_length, self.samples(first, step)
        content = {
            "run_url": self.job.run_url,
            "step": step,
            "tokens": self.samples(0, step)[1] * length,
            "first_loss": losses[0] if losses else None,
            "last_loss": losses[-1] if losses else None,
            "tokens_per_second": (samples[1] - samples[0]) * length / seconds if step > first else None,
            "mfu": lines[-1]["mfu"] if lines else None,
            "skipped_steps": sum(1 for line in lines if line.get("skipped")),
            "rollbacks": sum(1 for line in lines if "rollback" in line),
            "resumed_from": first,
            "evaluation": evaluation
            or next((ln["evaluation"] for ln in lines[::-1] if "evaluation" in ln), {}),
            "checkpoint_url": checkpoint.folder(self.job.run_url, saved) if saved is not None else None,
            "best_checkpoint_url": checkpoint.folder(self.job.run_url, best[0]) if best else None,
            "checkpoint_stalls": self.stalls,
        }
        if saved == step:
            content["hf_url"] = self.export(checkpoint.folder(self.job.run_url, step))
        files.write_json(files.join(self.job.run_url, SUMMARY), content)
        return content

    def export(self, checkpoint_url: str) -> str:
        """Write a checkpoint in Hugging Face's format to <run>/hf."""
        corpus, url = self.loader.corpus, files.join(self.job.run_url, "hf")
        facts = corpus.tokenizer
        options = {}
        if "file" in facts:
            folder = corpus.manifest_url.rsplit("/", 1)[0]
            options = {
                "tokenizer": files.join(folder, facts["file"]),
                "end_of_document": facts["end_of_document"],
            }
        state = checkpoint.consolidated_state(checkpoint_url)
        export_hf(state, self.job.model, facts["vocab_size"], url, **options)
        return url
