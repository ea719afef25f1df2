"""Learning-rate schedules."""

import math

from model.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of 0-based `step` of `steps`.

    Linear warm-up, then cosine decay (Loshchilov & Hutter 2017), warmup-stable-decay (Hu et al. 2024,
    MiniCPM; here with a linear decay) or a constant. The linear decay reaches the smallest rate in the last
    step. The cosine would in the one after it; GPT-NeoX's falls towards 0 instead and stops at the smallest
    rate.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = config.learning_rate - config.min_learning_rate
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        return config.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    start = max(steps - max(1, round(steps * config.decay_fraction)), config.warmup_steps)
    progress = (step + 1 - start) / (steps - start)
    return config.learning_rate - span * min(max(progress, 0.0), 1.0)
