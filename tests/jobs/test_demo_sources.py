import hashlib
import json
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import zstandard

from jobs import demo_sources

DOCSTRING = "Explains at length what the function does and why it does it in this order. " * 4


def documents(urls: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Documents by source, from the files that collect wrote."""
    found: dict[str, list[dict[str, Any]]] = {source: [] for source in demo_sources.FILES}
    for url in urls:
        with open(url, "rb") as stream:
            text = zstandard.ZstdDecompressor().stream_reader(stream).read().decode()
        for line in text.splitlines():
            record = json.loads(line)
            found[record["meta"]["pile_set_name"]].append(record)
    return found


def digests(urls: list[str]) -> list[str]:
    return [hashlib.sha256(open(url, "rb").read()).hexdigest() for url in urls]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages with 60 small packages, some hostile files, and piledriver itself."""
    packages, stdlib = tmp_path / "site-packages", tmp_path / "stdlib"
    for index in range(60):
        name = f"package{index}"
        folder = packages / name
        folder.mkdir(parents=True)
        (folder / "code.py").write_text(f'def f{index}():\n    """{index} {DOCSTRING}"""\n')
        info = packages / f"{name}-1.0.dist-info"
        (info / "licenses").mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\nAbout {name}.\n"
        )
        (info / "licenses" / "LICENSE").write_text(f"Permission is granted to {name}.")
    (packages / "package0" / "latin.py").write_bytes("# déjà vu".encode("latin-1"))
    (packages / "package0" / "empty.py").write_text("")
    (packages / "package0" / "broken.py").write_text('"""' + DOCSTRING + '"""\ndef (:\n')
    (packages / "package0" / "surrogate.py").write_text(f'"""\\ud800 {DOCSTRING}"""\n')
    own = packages / "piledriver-0.1.0.dist-info"
    own.mkdir()
    (own / "METADATA").write_text("Metadata-Version: 2.1\nName: piledriver\nVersion: 0.1.0\n\nOwn words.\n")
    (own / "RECORD").write_text("dedup/hashing.py,,\npiledriver-0.1.0.dist-info/RECORD,,\n")
    (packages / "dedup").mkdir()
    (packages / "dedup" / "hashing.py").write_text("OWN = 1\n")
    (stdlib / "asyncio").mkdir(parents=True)
    (stdlib / "asyncio" / "tasks.py").write_text("TASKS = 1\n")
    (stdlib / "test").mkdir()
    (stdlib / "test" / "test_tasks.py").write_text("TESTS = 1\n")
    paths = {"purelib": str(packages), "platlib": str(packages), "stdlib": str(stdlib)}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)
    return packages


def test_the_two_batches_hold_every_package_once(environment: Path, tmp_path: Path) -> None:
    first = documents(demo_sources.collect(str(tmp_path / "raw"), 0))
    second = documents(demo_sources.collect(str(tmp_path / "raw"), 1))
    names = {f"package{index}" for index in range(60)}
    for source in ("package_descriptions", "licences", "docstrings"):
        old = {record["meta"]["package"] for record in first[source]}
        new = {record["meta"]["package"] for record in second[source]}
        assert old | new == names
        assert not old & new
        assert 0 < len(new) < len(old)
    texts = [record["text"] for record in first["package_descriptions"] + second["package_descriptions"]]
    assert sorted(text.strip() for text in texts) == sorted(f"About {name}." for name in names)


def test_own_package_and_what_is_not_text_stay_out(environment: Path, tmp_path: Path) -> None:
    raw = str(tmp_path / "raw")
    found = documents(demo_sources.collect(raw, 0) + demo_sources.collect(raw, 1))
    paths = {record["meta"]["path"] for record in found["python_sources"]}
    assert "stdlib/asyncio/tasks.py" in paths
    assert "site-packages/package0/broken.py" in paths
    unwanted = ("latin.py", "empty.py", "hashing.py", "test_tasks.py")
    assert not [path for path in paths if path.endswith(unwanted)]
    everything = json.dumps(found)
    assert "Own words" not in everything
    assert "package0/broken.py:" not in everything
    assert [r for r in found["docstrings"] if r["text"].startswith("? Explains")]


def test_equal_environments_give_equal_bytes_and_finished_files_stay(
    environment: Path, tmp_path: Path
) -> None:
    once = demo_sources.collect(str(tmp_path / "a"), 0)
    again = demo_sources.collect(str(tmp_path / "b"), 0)
    assert digests(once) == digests(again)
    (environment / "package1" / "later.py").write_text("LATER = 1\n")
    before = digests(once)
    assert demo_sources.collect(str(tmp_path / "a"), 0) == once
    assert digests(once) == before


def test_limits_bound_the_text(environment: Path, tmp_path: Path) -> None:
    found = documents(demo_sources.collect(str(tmp_path), 0, python_bytes=5_000, docstring_bytes=2_000))
    for source, limit in (("python_sources", 5_000), ("docstrings", 2_000)):
        size = sum(len(record["text"].encode()) for record in found[source])
        assert 0.5 * limit < size <= 0.92 * limit
