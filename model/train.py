"""Training: from a job to its summary. It needs a process group at most, not Ray."""

import logging
import time

from base import files
from base.errors import UserError
from model import checkpoint, journal, ranks, restore
from model.checkpoint import Identity
from model.convert import export_hf
from model.corpus import Corpus
from model.engine import DTYPES, build_engine, initialize_distributed
from model.guard import Guard
from model.job import TrainJob, check, identity, missing_room, precision_of
from model.loop import Loop, OnMetrics, TransformLoss
from model.resume import starting_step
from model.run import RUN, SUMMARY, RunDescription, Summary

logger = logging.getLogger("piledriver.train")


def train(
    job: TrainJob,
    on_metrics: OnMetrics | None = None,
    transform_loss: TransformLoss | None = None,
) -> Summary | None:
    """Train to the last step, from the newest whole checkpoint if the run has one. Every rank calls it.

    The process group is taken from the environment (torchrun) or is there already (Ray Train). After the last
    step the model is written to <run>/hf, when the last checkpoint could be written. Returns the run's
    summary, which is in <run>/summary.json too; other ranks than the first get None.
    Raises UserError for settings that do not fit the corpus or an earlier part of the run, and for a disk
    that has no room for the first checkpoint.
    """
    rank, world = initialize_distributed()
    job.check_claim()
    config = job.train
    problem = config.misfit(world)
    if problem is not None:
        raise UserError(f"train.{problem}")
    loader = check(job)
    same = identity(job, loader)
    start = starting_step(job.run_url, config)
    resumed = restore.latest(job.run_url, start)
    before = checkpoint.check_description(resumed, same) if resumed is not None else None
    if resumed is None:
        facts = same.model["vocab_size"], same.model["precision"]
        lacking = ranks.agree(missing_room(job, *facts) if rank == 0 else None)
        if lacking is not None:
            raise UserError(lacking)
    if rank == 0:
        _describe(job, loader.corpus, same)
    tokenizer = loader.corpus.tokenizer
    engine = build_engine(job.model, config, tokenizer.vocab_size, tokenizer.end_of_document_id, world)
    if resumed is not None:
        restore.load(engine, resumed, config.zero_stage, config.tensor_parallel)
    first = before.step if before is not None else 0
    job.check_claim()
    if rank == 0:
        _throw_away(job.run_url, first)
    loop = Loop(
        job,
        loader,
        engine,
        same,
        Guard(config.guard, before.guard if before is not None else None),
        on_metrics=on_metrics,
        transform_loss=transform_loss,
    )
    try:
        begin = time.perf_counter()
        loop.run(first)
        return _summarize(loop, first, time.perf_counter() - begin)
    finally:
        loop.close()


def _throw_away(run_url: str, step: int) -> None:
    """Put aside what a run holds of steps after the one that it goes on from."""
    later = [number for number in checkpoint.steps(run_url) if number > step]
    if later:
        logger.warning(
            "going on from step %d, before the learning rate fell: what was trained from there to step %d is "
            "put aside",
            step,
            later[-1],
        )
        checkpoint.throw_away(run_url, step)
    journal.rewind(run_url, step)


def _describe(job: TrainJob, corpus: Corpus, same: Identity) -> None:
    """Write <run>/run.json."""
    description = RunDescription(
        manifest_url=corpus.manifest_url,
        mixture=job.mixture,
        model=same.model,
        data=same.data,
        damaged_shards=job.train.damaged_shards,
        verify_shards=job.train.verify_shards,
    )
    description.write(files.join(job.run_url, RUN))


def _summarize(loop: Loop, first: int, seconds: float) -> Summary | None:
    """Write and return the summary of a loop that ran so long from after `first` steps, on rank 0."""
    if loop.journal is None:
        return None
    loop.journal.sync()
    loop.job.check_claim()
    job, saved, step = loop.job, loop.saver.saved, max(first, loop.job.train.steps)
    best = checkpoint.best(job.run_url)
    records = journal.read(job.run_url)
    losses = [record.loss for record in records if record.loss is not None]
    length, samples = job.model.max_sequence_length, job.samples(first, step)
    evaluations = [record.evaluation for record in records if record.evaluation is not None]
    summary = Summary(
        run_url=job.run_url,
        step=step,
        tokens=job.samples(0, step)[1] * length,
        first_loss=losses[0] if losses else None,
        last_loss=losses[-1] if losses else None,
        tokens_per_second=(samples[1] - samples[0]) * length / seconds if step > first else None,
        mfu=records[-1].mfu if records else None,
        skipped_steps=sum(1 for record in records if record.skipped),
        rollbacks=sum(1 for record in records if record.rollback is not None),
        resumed_from=first,
        evaluation=loop.evaluation or (evaluations[-1] if evaluations else {}),
        checkpoint_url=checkpoint.folder(job.run_url, saved) if saved is not None else None,
        best_checkpoint_url=checkpoint.folder(job.run_url, best[0]) if best else None,
        checkpoint_stalls=loop.stalls,
        hf_url=_export(job, loop.loader.corpus, step) if saved == step else None,
    )
    job.check_claim()
    summary.write(files.join(job.run_url, SUMMARY))
    return summary


def _export(job: TrainJob, corpus: Corpus, step: int) -> str:
    """Write the checkpoint after `step` steps in Hugging Face's format to <run>/hf."""
    url = files.join(job.run_url, "hf")
    chosen = job.train.export_precision
    dtype = DTYPES[precision_of(job.train) if chosen == "auto" else chosen]
    state = restore.consolidated_state(checkpoint.folder(job.run_url, step))
    export_hf(
        {name: tensor.to(dtype) for name, tensor in state.items()},
        job.model,
        corpus.tokenizer.vocab_size,
        url,
        tokenizer=corpus.version.tokenizer_url,
        end_of_document=corpus.tokenizer.end_of_document,
    )
    return url
