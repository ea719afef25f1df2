"""The golden bytes: what a fixed set of commands writes into storage, as a list of paths and digests.

`make golden` runs prepare (one and two workers), refresh, merge and rebuild on ../shared/data and compares
what lies in storage with tests/golden.json. With --training it also trains, exports and scores; those bytes
depend on the processor, so that their list is only compared with one made on the same machine:

    python -m tests.golden --training --write before.json      (in a checkout of the code of before)
    python -m tests.golden --training --against before.json    (in a checkout of the code of now)

Manifests hold the URLs of inputs, so that everything happens in one folder whose path is always the same.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import xxhash
import yaml

from base.manifest import package_versions

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
GOLDEN = Path(__file__).with_name("golden.json")
FOLDER = Path("/tmp/piledriver-golden")
PACKAGES = ("matplotlib", "jinja2")
"""Packages that decide bytes besides those that a manifest names."""
PROSE, CODE = ["basic", "gopher_quality", "gopher_repetition"], ["basic"]


def main() -> None:
    """Build, and write or compare the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--training", action="store_true", help="train, export and score too")
    parser.add_argument("--write", type=Path, help="file for the list")
    parser.add_argument("--against", type=Path, default=GOLDEN, help="list to compare with")
    chosen = parser.parse_args()
    found = {"packages": packages(), "files": build(chosen.training)}
    if chosen.write:
        chosen.write.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
        print(f"{len(found['files'])} files in {chosen.write}")
        return
    differences = compare(json.loads(chosen.against.read_text()), found)
    print("\n".join(differences[:40]))
    print(f"{len(found['files'])} files, {len(differences)} differences from {chosen.against}")
    sys.exit(1 if differences else 0)


def packages() -> dict[str, str]:
    """Versions of the packages that decide bytes: a list that was made with others is not compared."""
    return package_versions() | {name: importlib.metadata.version(name) for name in PACKAGES}


def compare(golden: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs between two lists, a line each."""
    if golden["packages"] != found["packages"]:
        return [f"made with other packages: {golden['packages']}, here {found['packages']}"]
    before, now = golden["files"], found["files"]
    return [
        f"{name}: {before.get(name, 'not there')} before, {now.get(name, 'not there')} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def build(training: bool = False) -> dict[str, str]:
    """Run the commands; digest by path of all that they leave in storage."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    _copy_inputs()
    found: dict[str, str] = {}
    for name in ("sample", "messy"):
        _command("prepare", name, "ray.workers=1")
        alone = digests(name)
        shutil.rmtree(FOLDER / name)
        _command("prepare", name, "ray.workers=2")
        together = digests(name)
        different = sorted(path for path in alone | together if alone.get(path) != together.get(path))
        assert not different, f"one and two workers wrote other bytes: {different[:10]}"
    for path in sorted((FOLDER / "later").iterdir()):
        shutil.copy2(path, FOLDER / "raw-sample" / path.name)
    _command("refresh", "sample", "ray.workers=2")
    _command("merge", "sample", "ray.workers=2", more=["--with", str(FOLDER / "messy")])
    found |= digests("sample") | digests("messy")
    _rebuild(found)
    if training:
        for name in found:
            assert (FOLDER / name).exists(), name
        _command("train", "messy", more=["--corpus", "v0001", "--run", "golden"])
        _command("prepare", "messy", "score.model=golden", "score.max_characters=200")
        found |= digests("messy")
    return found


def _rebuild(found: dict[str, str]) -> None:
    """Damage one file of each kind of every version, let verify mend it, and compare."""
    versions = FOLDER / "sample" / "corpus" / "versions"
    for version in ("v0001", "v0002", "v0003"):
        for pattern in ("shards/*/train-*.arrow", "origins/*/train-*.parquet", "dropped/duplicates.parquet"):
            path = sorted((versions / version).glob(pattern))[0]
            path.write_bytes(b"damaged")
    _command("verify", "sample", more=["--rebuild"])
    mended = digests("sample")
    different = [path for path, digest in found.items() if path in mended and mended[path] != digest]
    assert not different, f"rebuild wrote other bytes: {different}"


def digests(name: str) -> dict[str, str]:
    """xxh3-128 by path below FOLDER of every file of a storage that holds no times."""
    storage = FOLDER / name
    return {
        str(path.relative_to(FOLDER)): xxhash.xxh3_128_hexdigest(path.read_bytes())
        for path in sorted(storage.rglob("*"))
        if path.is_file() and not _is_of_a_moment(path.relative_to(storage))
    }


def _is_of_a_moment(path: Path) -> bool:
    """Whether a file holds times: MLflow's, Ray Train's, the journal, and what a run says of its speed."""
    names = (
        "journal.jsonl",
        "journal.jsonl.shipped",
        "result.json",
        "summary.json",
        "training.png",
        "recorded",
    )
    return path.parts[0].startswith("ml") or path.name in names or "ray" in path.parts


def _copy_inputs() -> None:
    """Copies of the data with times that are always the same, since notes about inputs hold them."""
    for name, folder in (("raw-sample", "pile_sample"), ("raw-messy", "pile_messy")):
        (FOLDER / name).mkdir(parents=True)
        for path in sorted((DATA / folder).glob("*.jsonl.zst")):
            shutil.copyfile(path, FOLDER / name / path.name)
    shutil.copyfile(DATA / "tokenizer" / "tokenizer.json", FOLDER / "tokenizer.json")
    shutil.copytree(DATA / "benchmarks", FOLDER / "benchmarks", copy_function=shutil.copyfile)
    (FOLDER / "later").mkdir()
    for path in sorted((FOLDER / "raw-sample").iterdir())[-3:]:
        path.rename(FOLDER / "later" / path.name)
    for path in FOLDER.rglob("*"):
        os.chmod(path, 0o755 if path.is_dir() else 0o644)
        os.utime(path, (10**9, 10**9))
    for name in ("sample", "messy"):
        (FOLDER / f"{name}.yaml").write_text(yaml.safe_dump(_configuration(name), sort_keys=False))


def _configuration(name: str) -> dict[str, Any]:
    """A configuration in which every stage of a build has something to do."""
    kinds = {"github": "code", "dm-mathematics": "mathematics", "freelaw": "law", "ubuntu-irc": "dialogue"}
    return {
        "name": name,
        "storage": str(FOLDER / name),
        "sources": [
            {
                "name": "pile",
                "urls": [str(FOLDER / f"raw-{name}" / "*.jsonl.zst")],
                "name_field": "meta.pile_set_name",
                "kinds": kinds,
                "max_loss": 1.0,
            }
        ],
        "ingest": {"split_bytes": 2**20},
        "quality": {"rule_sets": {"prose": PROSE, "code": CODE}},
        "dedup": {"span_tokens": 100, "lines": {"min_documents": 8}},
        "decontaminate": {
            "benchmarks": [
                {"name": "gsm8k", "urls": [str(FOLDER / "benchmarks" / "gsm8k" / "test.jsonl")]},
                {"name": "human_eval", "urls": [str(FOLDER / "benchmarks" / "human_eval" / "*.jsonl.gz")]},
            ]
        },
        "tokenize": {"tokenizer": str(FOLDER / "tokenizer.json"), "vocab_size": 50277},
        "shard": {"target_tokens": 500_000},
        "model": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_sequence_length": 64},
        "train": {
            "steps": 8,
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "workers": 2,
            "precision": "fp32",
            "checkpoint": {"every": 4},
            "evaluate_every": 4,
        },
    }


def _command(command: str, name: str, *settings: str, more: list[str] | None = None) -> None:
    """Run one command of the project on a storage."""
    arguments = ["--config", str(FOLDER / f"{name}.yaml")]
    for setting in settings:
        arguments += ["--set", setting]
    print(f"{command} {name} {' '.join(settings)}", flush=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", f"jobs.{command}", *arguments, *(more or [])],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    main()
