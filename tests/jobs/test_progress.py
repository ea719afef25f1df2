"""What a person sees of a long command, with a terminal and without one."""

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.progress import StageProgress, TrainingProgress, clock


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = StageProgress(every=0.2, phases=True)
    progress("measure", 0, 4)
    progress("measure", 1, 4, 1000, 5_000_000)
    time.sleep(0.5)
    progress("measure", 4, 4, 4000, 20_000_000)
    progress("measure", 4, 4, 4000, 20_000_000)
    progress("dedup edges", 2, 2)
    progress.close()
    time.sleep(0.5)
    lines = capsys.readouterr().out.splitlines()
    running, finished = lines[:-2], lines[-2:]
    assert 1 <= len(running) <= 3
    assert running[0].split()[:5] == ["measure", "1", "of", "4", "tasks"]
    assert "documents/s" in running[0]
    assert "MB/s" in running[0]
    assert "ETA 0:0" in running[0]
    assert finished[0].split()[:3] == ["measure", "4", "tasks"]
    assert "documents/s" in finished[0]
    assert finished[1].split()[:4] == ["dedup", "edges", "2", "tasks"]
    assert "documents/s" not in finished[1]


def test_without_a_terminal_a_stage_of_many_phases_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = StageProgress(every=60)
    progress("measure", 3, 3, 10, 10)
    for phase, tasks in [("signatures", 4), ("bands", 2), ("edges", 1)]:
        progress(f"dedup {phase}", 0, tasks)
        progress(f"dedup {phase}", tasks, tasks)
    progress("tokens", 0, 2)
    progress("tokens", 2, 2, 10, 10)
    progress("index entries", 5, 5)
    progress.close()
    lines = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        [name, tasks, "tasks"]
        for name, tasks in [("measure", "3"), ("dedup", "7"), ("tokens", "2"), ("index", "5")]
    ]


def test_a_stage_is_one_line_of_a_terminal_of_80_characters() -> None:
    code = """
import time
from jobs.progress import StageProgress
progress = StageProgress()
progress("dedup cluster-edges", 0, 1000)
time.sleep(0.2)
progress("dedup cluster-edges", 600, 1000, 100_000, 50_000_000)
progress.close()
"""
    terminal, end = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], stderr=end, cwd=root, env=environment, check=True)
    os.close(end)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(terminal, 2**16).decode())
    os.close(terminal)
    lines = [line for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert all(len(line) <= 80 and "dedup cluster-edges" in line for line in lines)
    assert re.search(r"600/1000 .* docs/s .* MB/s  ETA 0:00", lines[-1])


def test_clock() -> None:
    assert [clock(seconds) for seconds in (None, 0.4, 61, 3723)] == ["-:--", "0:00", "1:01", "1:02:03"]


def test_lines_of_a_training_run(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(100, every=10)
    common = {"tokens_per_second": 5000.0, "mfu": 0.4}
    for step in range(1, 101):
        line: dict[str, Any] = {"step": step, "time": 1e9 + step, "loss": 8 - step / 50, **common}
        if step == 30:
            line |= {"evaluation": {"a": {"loss": 4.0}, "b": {"loss": 5.0}}}
        if step == 37:
            line |= {"loss": None, "skipped": True, "reason": "loss is not finite", "rollback": {"step": 20}}
        progress(line)
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in lines] == [1, 11, 21, 30, 37, 47, 57, 67, 77, 87, 97, 100]
    assert lines[1] == "  step  11 of 100  loss 7.7800  5,000 tokens/s  MFU 40%  ETA 1:29"
    assert lines[3].endswith("held-out loss 4.5000 (mean of 2 sources)")
    assert "skipped: loss is not finite" in lines[4] and lines[4].endswith("back to the weights of step 20")
    assert lines[-1] == "  step 100 of 100  loss 6.0000  5,000 tokens/s  MFU 40%"
