"""jobs.compile leaves nothing to compile for a build, and a build on a machine without kernels says so."""

from pathlib import Path

import pytest

from jobs import compile as command
from pipelines.runtime import kernels


def test_kernels_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(command, "build", built.append)
    assert not kernels.compiled()
    command.main()
    command.main()
    assert len(built) == 1 and kernels.compiled()


def test_every_stage_runs_of_what_the_configuration_can_turn_on(tmp_path: Path) -> None:
    command.build(tmp_path)
    corpus = tmp_path / "storage" / "corpus"
    assert list(corpus.glob("versions/v0001/shards/*/*.arrow"))
    stages = {path.name for path in (corpus / "work").iterdir()}
    assert {"decide", "dedup", "tokens", "shards"} <= stages
