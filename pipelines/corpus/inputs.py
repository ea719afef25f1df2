"""Which files a build reads: listing, content digests, and the parts they become."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import xxhash

from base import files, seals
from base.credentials import hide
from base.damage import DamagedError
from base.errors import UserError, mistake
from base.manifest import InputEntry
from base.records import Record
from pipelines.corpus.reading import decompress, splitting
from pipelines.corpus.reading.settings import SourceConfig


@dataclass(frozen=True, order=True, kw_only=True)
class Input:
    """A source file, or a range of a large one, and the digest of the whole file's content.

    The range is `bytes` bytes from byte `start` of the file as it is stored; which records belong to it
    is told by pipelines.corpus.reading.ingest.read. `part` names its outputs.
    """

    source: str
    file: str
    start: int
    bytes: int
    digest: str
    part: str

    @property
    def stop(self) -> int:
        """The byte after the range."""
        return self.start + self.bytes

    @property
    def name(self) -> str:
        """URL of the file as it is shown, without credentials."""
        return hide(self.file)

    @property
    def entry(self) -> InputEntry:
        """The input as a manifest has it."""
        return InputEntry(**{**asdict(self), "file": self.name})


class FileFacts(Record):
    """What is remembered of a source file in inputs.json."""

    bytes: int
    stamp: str
    """Tells another content: a checksum or the time of the last change; "None" where nothing tells."""
    digest: str


def check_sources(sources: list[SourceConfig]) -> set[tuple[str, str]]:
    """(source, file URL) of every file of every source.

    Of a folder that `datasets` saved only the data files count. Files and folders whose names begin with "_"
    or "." (`_SUCCESS`, `.ipynb_checkpoints`) count only where the URL names them. Raises UserError for a URL
    that matches no file or cannot be asked.
    """
    found: set[tuple[str, str]] = set()
    for source in sources:
        for url in source.urls:
            pattern = files.absolute(url)
            with _told(f"source {source.name}: {url} cannot be listed"):
                matches = _without_notes(files.list_files(pattern))
            matches = [match for match in matches if _hidden(match) == _hidden(pattern)]
            if not matches:
                raise UserError(f"source {source.name}: no file matches {url}")
            found.update((source.name, match) for match in matches)
    return found


def _hidden(url: str) -> int:
    """How many of the names in a URL begin as those do that are no data to Spark and `datasets`."""
    return sum(name.startswith(("_", ".")) for name in decompress.file_name(url).split("/"))


def _without_notes(names: list[str]) -> list[str]:
    """Files without the ones in which `Dataset.save_to_disk` tells what lies beside them."""
    folders = {name.rpartition("/")[0] for name in names if name.endswith("/state.json")}
    folders &= {name.rpartition("/")[0] for name in names if name.endswith("/dataset_info.json")}
    above = {folder.rpartition("/")[0] for folder in folders}
    return [
        name
        for name in names
        if not (name.rpartition("/")[0] in folders and name.endswith(("/state.json", "/dataset_info.json")))
        and not (name.rpartition("/")[0] in above and name.endswith("/dataset_dict.json"))
    ]


def list_inputs(
    sources: list[SourceConfig],
    cache_url: str,
    split_bytes: int,
    found: set[tuple[str, str]] | None = None,
) -> list[Input]:
    """Every file of every source, in ranges of about `split_bytes` where it can be split, sorted.

    A digest is the object store's checksum where the file system tells one, else xxh3-128 of the
    content. `cache_url` remembers digests by URL, size and modification time, so that a second
    listing does not read the files again, unless nothing tells the time. A file that is listed with several
    credentials is one. `found` is what check_sources gave, where it was called before.

    Raises UserError for a source that matches no file, and for a file that cannot be read or whose size is
    not told.
    """
    pairs = sorted(check_sources(sources) if found is None else found)
    known = _remembered(cache_url)
    names = sorted({file for _, file in pairs})
    with ThreadPoolExecutor(8) as pool:
        shown = Counter(map(hide, names))
        # Names that differ in what is hidden may be of different files.
        noted = [known.get(hide(file)) if shown[hide(file)] == 1 else None for file in names]
        facts = dict(zip(names, pool.map(_facts, names, noted), strict=True))
        remembered = {hide(file): fact.to_json() for file, fact in facts.items()}
        files.write_json(cache_url, seals.sealed(remembered))
        by_name = {source.name: source for source in sources}
        starts = list(
            pool.map(
                lambda pair: splitting.starts(pair[1], by_name[pair[0]], facts[pair[1]].bytes, split_bytes),
                pairs,
            )
        )
    inputs: dict[str, Input] = {}
    for (source, file), begins in zip(pairs, starts, strict=True):
        ends = [*begins[1:], facts[file].bytes]
        for start, stop in zip(begins, ends, strict=True):
            place = [] if len(begins) == 1 else [str(start), str(stop)]
            part = _part(source, file, facts[file], place)
            inputs[part] = Input(
                source=source,
                file=file,
                start=start,
                bytes=stop - start,
                digest=facts[file].digest,
                part=part,
            )
    return sorted(inputs.values(), key=lambda item: (item.source, item.name, item.file, item.start))


def _remembered(cache_url: str) -> dict[str, FileFacts]:
    """The facts of files by their shown URLs; none if what is remembered cannot be read."""
    try:
        value = seals.unsealed(files.read_json(cache_url), needed=True)
        return {file: FileFacts.from_json(facts, cache_url) for file, facts in value.items()}
    except (DamagedError, ValueError):
        return {}


@contextmanager
def _told(sentence: str) -> Iterator[None]:
    """Turn what a storage raises into a UserError that begins with `sentence`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and mistake(error) is None:
            raise
        raise UserError(f"{sentence}: {error}") from None


def _facts(file: str, noted: FileFacts | None) -> FileFacts:
    """The facts of a file; `noted` are those that are remembered, if there are some."""
    filesystem, path = files.split(file)
    with _told(f"input file {file} cannot be read"):
        try:
            info = filesystem.info(path)
            tag = info.get("ETag") or info.get("md5Hash") or info.get("etag") or info.get("blob_id")
            times = (info.get(name) for name in ("mtime", "LastModified", "Last-Modified", "created"))
            stamp = tag or next(filter(None, times), None)
            if info["size"] is None:
                raise UserError(f"the size of input file {file} is not told; download it first")
            if noted and stamp and (noted.bytes, noted.stamp) == (info["size"], str(stamp)):
                return noted
            return FileFacts(
                bytes=info["size"],
                stamp=str(stamp),
                digest=str(tag) if tag else files.digest(file),
            )
        except FileNotFoundError:
            raise UserError(f"input file {file} is not there any more") from None


def _part(source: str, file: str, facts: FileFacts, place: list[str]) -> str:
    names = [source, hide(file), str(facts.bytes), facts.digest, *place]
    return xxhash.xxh3_64_hexdigest("\0".join(names).encode())
