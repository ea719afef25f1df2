"""Learning rates against the schedules told anew, for runs of any length."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import OptimizerConfig
from model.schedule import learning_rate

HIGH, LOW = 1.0, 0.25


def _expected(schedule: str, step: int, steps: int, warmup: int, fraction: float) -> float:
    if step < warmup:
        return HIGH * (step + 1) / warmup
    if schedule == "constant":
        return HIGH
    if schedule == "cosine":
        done = (step - warmup) / (steps - warmup)
        return LOW + (HIGH - LOW) * math.cos(math.pi / 2 * done) ** 2
    falling = min(max(1, round(steps * fraction)), steps - warmup)
    fallen = max(0, step + 1 - (steps - falling))
    return HIGH - (HIGH - LOW) * fallen / falling


@given(
    st.sampled_from(["cosine", "wsd", "constant"]),
    st.integers(1, 40),
    st.integers(0, 45),
    st.floats(0.01, 1.0),
)
def test_rates_rise_hold_and_fall(schedule: str, steps: int, warmup: int, fraction: float) -> None:
    config = OptimizerConfig.model_validate(
        {
            "learning_rate": HIGH,
            "min_learning_rate": LOW,
            "schedule": schedule,
            "warmup_steps": warmup,
            "decay_fraction": fraction,
        }
    )
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    expected = [_expected(schedule, step, steps, warmup, fraction) for step in range(steps)]
    assert rates == pytest.approx(expected)
    if schedule == "wsd" and warmup < steps:
        assert rates[-1] == pytest.approx(LOW)
