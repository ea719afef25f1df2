"""Where everything of a project lies: the one object that knows every path."""

import re
from dataclasses import dataclass
from functools import cached_property

from base import files
from base.errors import UserError

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
REPORT = "report.html"
REJECTS = "rejects.parquet"
CONTAMINATION = "contamination.parquet"
LINES = "lines.parquet"
SHARDS = "shards.parquet"
INPUTS = "inputs.parquet"
"""Files of a version, below its folder; what was dropped, by stage, is in `dropped`."""
RESULT = "result.json"
"""Last file of a training run, an evaluation and a batch inference, below its folder."""
CLAIM = "claim"
"""Folder of who writes a corpus, a training run, an evaluation or a batch inference, below its folder."""


def dropped(stage: str) -> str:
    """The table of documents that a stage (quality, duplicates, edits) dropped, below a version's folder."""
    return f"dropped/{stage}.parquet"


def origins_path(shard: str) -> str:
    """The path of the origins of a shard, given the shard's, both below the versions."""
    version, _, rest = shard.partition("/shards/")
    return f"{version}/origins/{rest.removesuffix('.arrow')}.parquet"


def part_path(kind: str, key: str, part: str, suffix: str) -> str:
    """A file of a part below documents/, attributes/, rejects/ or parts/, below the corpus."""
    return f"{kind}/{key}/{part}.{suffix}"


def is_run_name(name: str) -> bool:
    """Whether a training run may have that name, which is one folder below the others."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) is not None


def name_of(url: str) -> str:
    """The last name of a URL: that of a file or folder."""
    return url.rstrip("/").rsplit("/", 1)[-1]


def parent_of(url: str, levels: int = 1) -> str:
    """The folder that holds a file or folder, or one further up."""
    return url.rstrip("/").rsplit("/", levels)[0]


@dataclass(frozen=True)
class Layout:
    """The folders and files below the storage of a project."""

    storage: str

    @cached_property
    def corpus(self) -> str:
        """All of the corpus: versions, documents, work."""
        return files.join(self.storage, "corpus")

    @cached_property
    def versions(self) -> str:
        """The folder of all versions."""
        return files.join(self.corpus, "versions")

    def version(self, name: str) -> str:
        """The folder of a version."""
        return files.join(self.versions, name)

    def manifest(self, name: str) -> str:
        """The manifest of a version; `name` may be a pattern."""
        return files.join(self.versions, name, MANIFEST)

    @cached_property
    def inputs(self) -> str:
        """What is remembered of source files, so that they are not read again for their digests."""
        return files.join(self.corpus, "inputs.json")

    def folder(self, kind: str, key: str) -> str:
        """The folder of a kind of files of parts."""
        return files.join(self.corpus, kind, key)

    def part(self, kind: str, key: str, part: str, suffix: str) -> str:
        """The URL of a file of a part, as part_path says."""
        return files.join(self.corpus, part_path(kind, key, part, suffix))

    def work(self, stage: str, key: str, *parts: str) -> str:
        """A URL below work/<stage>/<key>, where a stage of a build keeps what it does."""
        return files.join(self.corpus, "work", stage, key, *parts)

    def index(self, name: str) -> str:
        """A dedup index."""
        return files.join(self.corpus, "index", name)

    @cached_property
    def training(self) -> str:
        """The folder of all training runs."""
        return files.join(self.storage, "training")

    def run(self, name: str) -> str:
        """The folder of a training run. Raises UserError for what is no name of one."""
        if not is_run_name(name):
            raise UserError(
                f"{name!r} is no name of a training run: letters, digits, dots, hyphens and underscores make "
                "one, and it begins with no dot or hyphen"
            )
        return files.join(self.training, name)

    def result(self, run: str) -> str:
        """The result of a training run that has finished."""
        return files.join(self.run(run), RESULT)

    def model(self, run: str) -> str:
        """The Hugging Face folder of the model that a training run made."""
        return files.join(self.run(run), "hf")

    @cached_property
    def latest_run(self) -> str:
        """The pointer to the newest finished run."""
        return files.join(self.training, "latest.json")

    def evaluation(self, name: str) -> str:
        """The folder of an evaluation."""
        return files.join(self.storage, "evaluation", name)

    def inference(self, name: str) -> str:
        """The folder of a batch inference."""
        return files.join(self.storage, "inference", name)
