"""Which steps are not taken: losses and gradients that are not finite, or far outside of the latest ones."""

import math

import numpy as np

from base.errors import UserError
from base.records import Record
from model.config import GuardConfig

FLOOR = 0.01
"""Smallest standard deviation, as a share of the mean: a flat curve is no reason to call noise a spike."""


class GuardState(Record):
    """What a guard knows, in a checkpoint."""

    losses: list[float] = []
    """Of the latest steps that were taken."""
    norms: list[float] = []
    """Gradient norms of the same steps."""
    streak: int = 0
    """Bad steps one after the other."""


class Guard:
    """Judges each step by the accepted ones before it, after the skip rule of OLMo 2 (arXiv:2501.00656).

    Its state is small, goes into checkpoints and decides alone: runs that are resumed judge alike.
    """

    def __init__(self, config: GuardConfig, state: GuardState | None = None) -> None:
        """`state`: from a checkpoint; absent for a run's first step."""
        self.config = config
        self.restore(state or GuardState())
        self.rollbacks: dict[int, int] = {}
        """Returns to each checkpoint since this process began or resumed there."""

    def restore(self, state: GuardState) -> None:
        """Take up the state that `state` returned."""
        self.losses, self.norms, self.streak = list(state.losses), list(state.norms), state.streak

    def state(self) -> GuardState:
        """What `restore` continues from."""
        return GuardState(losses=list(self.losses), norms=list(self.norms), streak=self.streak)

    def judge(self, loss: float, norm: float) -> str | None:
        """Why a step with this mean loss and gradient norm (before clipping) must not be taken, if so."""
        for name, value, before in (("loss", loss, self.losses), ("gradient norm", norm, self.norms)):
            if not math.isfinite(value):
                return f"{name} is not finite"
            if self.config.sigmas and len(before) >= self.config.window // 2:
                mean = float(np.mean(before))
                deviation = max(float(np.std(before)), FLOOR * abs(mean))
                if value > mean + self.config.sigmas * deviation:
                    return f"{name} {value:.4g} is {(value - mean) / deviation:.1f} sigma above {mean:.4g}"
        return None

    def accept(self, loss: float, norm: float) -> None:
        """Record a step that was taken."""
        self.streak = 0
        for values, value in ((self.losses, loss), (self.norms, norm)):
            values.append(value)
            del values[: -self.config.window]

    def refuse(self) -> bool:
        """Record a bad step; whether it is time to roll back."""
        self.streak += 1
        return self.streak == self.config.rollback_after

    def roll_back(self, checkpoint_step: int | None, state: GuardState | None, steps: str) -> int:
        """Take up the state of a checkpoint that the weights are taken from; the step of it.

        Both are None when there is none. steps: what the message says of the bad steps. Raises UserError when
        there is no checkpoint, or it has been returned to so often that it will not help.
        """
        if checkpoint_step is None or state is None:
            raise UserError(
                f"{steps}, and there is no way back to a checkpoint; lower train.optimizer.learning_rate"
            )
        self.rollbacks[checkpoint_step] = self.rollbacks.get(checkpoint_step, 0) + 1
        if self.rollbacks[checkpoint_step] > self.config.max_rollbacks:
            raise UserError(
                f"{steps}, after {self.config.max_rollbacks} returns to the checkpoint of step "
                f"{checkpoint_step}; go on from there with a lower train.optimizer.learning_rate, the "
                "name of this run as --run and train.rate_jump=accept, or raise train.guard.max_rollbacks"
            )
        self.restore(state)
        return checkpoint_step
