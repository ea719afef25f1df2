"""Speed by a clock that the test sets, and what is told of the machine."""

from types import SimpleNamespace

import psutil
import pytest

from tests.helpers.late import RUNNING
from tests.helpers.training import settings

if RUNNING:
    import torch

    from model import meter
    from model.machine import machine


def test_speed_utilisation_and_waiting_since_the_last_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    measured = meter.Meter(settings(peak_tflops=2.0), 6e9, world=3)
    clock.now += 4
    measured.waited += 1
    wanted = {"tokens_per_second": 250.0, "mfu": 250 * 6e9 / (3 * 2e12), "loader_wait": 0.25}
    assert measured.read(1000) == pytest.approx(wanted)
    measured.steps = 5
    measured.reset()
    assert measured.steps == 0
    clock.now += 2
    assert measured.read(10) == pytest.approx({"tokens_per_second": 5.0, "mfu": 0.005, "loader_wait": 0.0})


def test_the_peak_is_that_of_the_quickest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 3.0, 10.0, 10.5, 20.0, 22.0])
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert meter.measure_peak("fp32") == 2 * 768**3 / 0.5
    asked: list[str] = []

    def measure(precision: str) -> float:
        asked.append(precision)
        return 7e9

    monkeypatch.setattr(meter, "measure_peak", measure)
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    assert meter.Meter(settings(peak_tflops=None, precision="bf16"), 1.0, world=2).peak == 14e9
    assert asked == ["bf16"]


def test_the_machine_is_told_in_megabytes_and_percent() -> None:
    found, memory = machine(), psutil.virtual_memory()
    assert found["system_memory_usage_megabytes"] == pytest.approx(memory.used / 1e6, rel=0.5)
    assert found["system_memory_usage_percentage"] == pytest.approx(memory.percent, abs=30)
    rss = psutil.Process().memory_info().rss
    assert found["process_memory_megabytes"] == pytest.approx(rss / 1e6, rel=0.5)
    assert 0 <= found["cpu_utilization_percentage"] <= 100
    assert machine()["process_cpu_seconds"] >= found["process_cpu_seconds"] > 0
