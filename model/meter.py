"""How fast a training loop is."""

import time

import torch

from model.config import TrainConfig
from model.engine import DTYPES
from model.job import precision_of


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


class Meter:
    """Time and steps since the journal's last line, and the part of the time that waited for samples."""

    def __init__(self, config: TrainConfig, flops_per_token: float, world: int) -> None:
        """Find out what one of `world` workers can do at most."""
        self.flops_per_token = flops_per_token
        peak = (config.peak_tflops or 0) * 1e12 or measure_peak(precision_of(config))
        self.peak = peak * world
        """FLOP/s of all workers."""
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.begin, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def read(self, tokens: int) -> dict[str, float]:
        """tokens_per_second, mfu and loader_wait of `tokens` trained on since the last reset."""
        elapsed = time.perf_counter() - self.begin
        speed = tokens / elapsed
        return {
            "tokens_per_second": speed,
            "mfu": speed * self.flops_per_token / self.peak,
            "loader_wait": self.waited / elapsed,
        }
