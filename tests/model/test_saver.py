"""What is synced of a checkpoint, and when."""

import os
from pathlib import Path

import pytest

from model import checkpoint
from tests.helpers.corpus import write_corpus
from tests.helpers.training import SOURCES, run_here


def test_all_of_a_checkpoint_is_synced_before_it_has_its_name_and_its_name_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, run_url = write_corpus(tmp_path, SOURCES), str(tmp_path / "run")
    events: list[str] = []
    sync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def renamed(source: str, target: str) -> None:
        if os.path.isdir(source):
            events.append(f"{source} becomes {target}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    run_here(manifest, run_url, steps=2)
    target = checkpoint.folder(run_url, 2)
    (moved,) = [place for place, event in enumerate(events) if event.endswith(f" becomes {target}")]
    temporary = events[moved].partition(" becomes ")[0]
    names = [path.relative_to(target) for path in Path(target).rglob("*") if path.is_file()]
    assert len(names) >= 3
    described = Path(checkpoint.DESCRIPTION)
    wanted = {os.path.join(temporary, name) for name in names if name != described} | {temporary}
    assert wanted <= set(events[:moved])
    # It is created, by way of a name of its own.
    own = [event for event in events[:moved] if event.startswith(f"{temporary}/.tmp-")]
    assert described in names and [event.endswith(f"-{described}") for event in own] == [True]
    assert os.path.dirname(target) in events[moved:]
