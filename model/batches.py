"""Which samples a step trains on: a pure function of the settings.

With a warm-up the sizes of the global batches are a staircase from its first size to the final one: its steps
are shared evenly among the sizes below (GPT-NeoX and Megatron-LM: rampup_batch_size, Shoeybi et al. 2019).
"""

from model.config import BatchWarmup


def first_sample(final: int, warmup: BatchWarmup | None, step: int) -> int:
    """The global sample number at which 0-based `step` begins: the sum of the sizes before it."""
    if warmup is None:
        return step * final
    during = min(step, warmup.steps)
    stairs = (final - warmup.start) // warmup.increment
    # Stair k begins at step ceil(k · steps / stairs), so each adds its increment from there on.
    begins = (-(-stair * warmup.steps // stairs) for stair in range(1, stairs))
    risen = sum(during - begin for begin in begins if begin < during)
    return during * warmup.start + risen * warmup.increment + (step - during) * final


def step_of(final: int, warmup: BatchWarmup | None, sample: int) -> int:
    """The 0-based step that trains on global sample number `sample`."""
    low, high = 0, sample + 1  # every batch has at least one sequence
    while high - low > 1:
        middle = (low + high) // 2
        if first_sample(final, warmup, middle) <= sample:
            low = middle
        else:
            high = middle
    return low
