"""What would stop a command after hours is named by every command that needs it, before Ray is imported."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from base.errors import UserError
from jobs import checks
from jobs.cli import COMMANDS
from pipelines.config import load
from tests.helpers.corpus import write_corpus

ROOT = Path(__file__).parents[2]
BUILDS = ("prepare", "refresh", "dedup")
ALL = (*BUILDS, "merge", "train", "evaluate", "infer")
MISTAKES: list[tuple[str, list[str], tuple[str, ...]]] = [
    ("storage=/proc/none", ["storage = '/proc/none' cannot be written"], ALL),
    ("storage=memory://x", ["tracking.uri must be set"], tuple(name for name in ALL if name != "dedup")),
    ("sources.0.urls=[/nowhere/x*]", ["source a: no file matches /nowhere/x*"], BUILDS),
    ("sources.0.urls=[s4://bucket/x]", ["s4://bucket/x cannot be opened", "s4"], BUILDS),
    ("redact.email=jane@firm.com", ["redact.email = 'jane@firm.com'", "personal data"], BUILDS),
    (
        "decontaminate.benchmarks=[{name: gsm8k, urls: [/nowhere/b]}]",
        ["gsm8k", "no files at /nowhere/b"],
        BUILDS,
    ),
    (
        "decontaminate.benchmarks=[{name: gsm8k, urls: [RAW], fields: [question]}]",
        ["gsm8k", "no text field question", "text fields are text"],
        BUILDS,
    ),
    (
        "tokenize.tokenizer=/nowhere/t.json",
        ["tokenizer /nowhere/t.json does not exist"],
        ("prepare", "dedup"),
    ),
    ("tokenize.tokenizer=CONFIG", ["config.yaml is not a tokenizer"], ("prepare", "dedup")),
    ("mixture={c: 1}", ["mixture.c", "no such source; the sources are a"], BUILDS),
    ("mixture_epochs={a: 1, c: 1}", ["mixture_epochs.c", "no such source; the sources are a"], BUILDS),
    ("mixture={b: 1}", ["mixture.b", "no such source; the sources are a"], ("prepare", "dedup")),
    (
        "language.keep={prose: [english]}",
        ["language.keep.prose = 'english'", "allowed are", "en, "],
        BUILDS,
    ),
    ("score.model=nothing", ["score.model = 'nothing'", "neither a finished run"], BUILDS),
    ("score.fasttext=/nowhere/f.bin", ["score.fasttext = '/nowhere/f.bin' does not exist"], BUILDS),
    ("plugins.filters=[nothing:here]", ["nothing:here"], BUILDS),
    ("plugins.edits=[nothing:here]", ["nothing:here"], BUILDS),
    ("infer.prompts=null", ["infer.prompts is missing"], ("infer",)),
]
SCRIPT = """
import importlib, json, sys, time
from base.errors import UserError
from jobs import checks
from pipelines.config import load
path, cases = json.load(sys.stdin)
# Kernels that nobody compiled yet are compiled here, and models read.
checks.check("prepare", load(path, ["language.keep={prose: [en]}", "redact.email=someone"]))
found = []
for command, override in cases:
    more = {"with_": "/nowhere"} if command == "merge" else {}
    begin = time.process_time()
    try:
        importlib.import_module(f"jobs.{command}").main(path, set_=[override], **more)
        sentence = "nothing was said"
    except UserError as error:
        sentence = str(error)
    heavy = [name for name in ("ray", "torch") if name in sys.modules]
    found.append((sentence, time.process_time() - begin, heavy))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a project of one source, a, with a version of a corpus of a and b."""
    folder = tmp_path_factory.mktemp("checks")
    (folder / "raw").mkdir()
    (folder / "raw" / "a.jsonl").write_text('{"text": "something"}\n')
    write_corpus(folder / "project", {"a": [[5, 5]], "b": [[5, 5]]})
    config = {
        "name": "test",
        "storage": str(folder / "project"),
        "sources": [{"name": "a", "urls": [f"{folder}/raw/*.jsonl"]}],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def test_every_mistake_by_every_command_that_needs_to_know(path: Path) -> None:
    raw = str(path.parent / "raw" / "a.jsonl")
    cases = [
        (command, override.replace("CONFIG", str(path)).replace("RAW", raw), words)
        for override, words, commands in MISTAKES
        for command in commands
    ]
    given = json.dumps([str(path), [case[:2] for case in cases]])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=given, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    found: list[tuple[str, float, Any]] = json.loads(done.stdout.splitlines()[-1])
    for (command, override, words), (sentence, seconds, heavy) in zip(cases, found, strict=True):
        assert all(word in sentence for word in words), (command, override, sentence)
        assert seconds < 2 and heavy == [], (command, override, seconds, heavy)


@pytest.mark.parametrize("command", [*ALL, "dedup --against", "verify --rebuild"])
def test_storage_is_tried_by_every_command_that_writes_there(command: str, path: Path) -> None:
    with pytest.raises(UserError, match="storage = '/proc/none' cannot be written"):
        checks.check(command, load(str(path), ["storage=/proc/none"]))


def test_nothing_is_left_of_trying_the_storage(path: Path) -> None:
    before = sorted(path.parent.rglob("*"))
    checks.storage(load(str(path)))
    assert sorted(path.parent.rglob("*")) == before


def test_a_check_gives_the_files_of_the_sources(path: Path) -> None:
    raw = str(path.parent / "raw" / "a.jsonl")
    assert checks.check("prepare", load(str(path))) == {("a", raw)}
    assert checks.check("train", load(str(path))) == set()


def test_a_refresh_builds_on_a_version(path: Path) -> None:
    checks.parent(load(str(path), ["mixture={a: 1, b: 2}"]))
    with pytest.raises(UserError, match="holds no corpus version; run jobs.prepare first"):
        checks.parent(load(str(path), [f"storage={path.parent}/else"]))


def test_records_may_name_sources(path: Path) -> None:
    checks.mixture(load(str(path), ["mixture={c: 1}", "sources.0.name_field=meta.set"]))


def test_checks_are_of_commands_that_there_are() -> None:
    named = {command.split()[0] for _, commands in checks.CHECKS for command in commands}
    assert named <= set(COMMANDS)


def test_storage_that_vanishes_with_a_job() -> None:
    url = "/tmp/ray/session/runtime_resources/working_dir_files/_ray_pkg_1/runs"
    with pytest.raises(UserError, match="own copy of the working directory; .* give an absolute path"):
        checks.writable(url)
