import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batches import first_sample, step_of
from model.config import BatchWarmup, TrainConfig


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 9), st.integers(1, 60))
@settings(max_examples=80, deadline=None)
def test_first_samples_are_sums_of_sizes(start: int, increment: int, stairs: int, steps: int) -> None:
    final = start + increment * stairs
    for warmup in (None, BatchWarmup(start=start, increment=increment, steps=steps)):
        sizes = [final] * 80
        if warmup is not None:
            sizes[:steps] = [start + increment * (step * stairs // steps) for step in range(steps)]
        total = 0
        for step, size in enumerate(sizes):
            assert first_sample(final, warmup, step) == total
            assert step_of(final, warmup, total) == step == step_of(final, warmup, total + size - 1)
            total += size


def test_warm_ups_that_do_not_divide_are_named() -> None:
    for warmup, message in [
        ({"start": 3, "increment": 2, "steps": 9}, "batch_warmup.start 3 must be a multiple"),
        ({"start": 2, "increment": 4, "steps": 9}, "by whole increments of 4"),
        ({"start": 8, "increment": 2, "steps": 9}, "from start 8 to global_batch_size 8"),
    ]:
        with pytest.raises(ValueError, match=message):
            TrainConfig.model_validate(
                {"global_batch_size": 8, "micro_batch_size": 2, "batch_warmup": warmup}
            )
