"""Where a run goes on: from its newest checkpoint, where the learning rate goes on there too."""

import math
from collections.abc import Iterable

from base import layout
from base.errors import UserError
from model import checkpoint
from model.checkpoint import Description
from model.config import TrainConfig
from model.schedule import learning_rate


def starting_step(run_url: str, train: TrainConfig) -> int | None:
    """The step of the checkpoint that a run goes on from, if none is damaged; None where there is none.

    It is the newest. After more steps were asked for, wsd's rate has fallen there, and the newest one before
    its decay is taken if it is kept: what came later is thrown away, and the run becomes the one that the
    settings describe. Raises UserError where the rate would leave its curve and nobody has accepted that.
    """
    found = list(checkpoint.descriptions(run_url))
    if not found:
        return None
    newest, config = found[0], train.optimizer
    if _goes_on(train, newest) or train.rate_jump == "accept":
        return newest.step
    if config.schedule == "wsd" and newest.step <= train.steps:
        stable = _before_decay(train, found)
        if stable is not None:
            return stable
    before, now = newest.learning_rate, learning_rate(config, newest.step - 1, train.steps)
    run = layout.name_of(run_url)
    raise UserError(
        f"run {run} had the learning rate {before:.3g} at step {newest.step}, where what is asked for now "
        f"({config.schedule}, {train.steps} steps) has {now:.3g}: give the former settings, another --run "
        "for a new one, or train.rate_jump=accept to go on with that jump"
    )


def _goes_on(train: TrainConfig, description: Description) -> bool:
    """Whether the step of a checkpoint had the rate that the schedule gives it now."""
    rate = learning_rate(train.optimizer, description.step - 1, train.steps)
    return description.learning_rate is None or math.isclose(description.learning_rate, rate, rel_tol=1e-9)


def _before_decay(train: TrainConfig, found: Iterable[Description]) -> int | None:
    """The step of the newest checkpoint between warm-up and decay, as the schedule is now."""
    for description in found:
        if _goes_on(train, description):
            return description.step if description.step >= train.optimizer.warmup_steps else None
    return None
