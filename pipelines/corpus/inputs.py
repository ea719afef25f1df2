"""Which files a build reads: listing, content digests, and the parts they become."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import xxhash

from base import files, seals
from base.contents import InputEntry
from base.credentials import hide
from base.damage import DamagedError
from base.errors import StorageError, UserError, mistake
from base.records import Record
from pipelines.corpus.reading import decompress, ingest, splitting
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
        """URL of the file as it is shown, without credentials; bytes that are not UTF-8 as hexadecimal."""
        return _shown(self.file)

    @property
    def entry(self) -> InputEntry:
        """The input as a manifest has it."""
        return InputEntry(**{**asdict(self), "file": self.name})


_CACHE = re.compile(r"cache-[0-9a-f]+(_\d+_of_\d+)?\.arrow")
"""Names of files in which `datasets` keeps what map, filter, sort and shuffle gave."""
_README = re.compile(
    r"(readme|licen[cs]e|copying|notice|citation|changelog|contributing)([._-][a-z0-9._-]*)?"
    r"|dataset_infos\.json|croissant\.json|(md5|sha1|sha256)sums?(\.txt)?|checksums?\.txt",
    re.IGNORECASE,
)
"""What people and hubs write about the data that lies beside it."""
_NOTES = frozenset({"state.json", "dataset_info.json"})
"""What tells of a saved dataset."""


def _shown(file: str) -> str:
    # A local name that is not UTF-8 has lone surrogates for its other bytes, which no JSON or table takes.
    return hide(file).encode(errors="surrogateescape").decode(errors="backslashreplace")


class FileFacts(Record):
    """What is remembered of a source file in inputs.json."""

    bytes: int
    stamp: str
    """Tells another content: a checksum or the time of the last change; "None" where nothing tells."""
    digest: str


def check_sources(sources: list[SourceConfig]) -> set[tuple[str, str]]:
    """(source, file URL) of every file of every source.

    Of a folder that `datasets` saved only the data files count, and notes of people (README, LICENSE) do not
    beside files of records whose format is told by their names. Such notes, and files and folders whose names
    begin with "_" or "." (`_SUCCESS`, `.ipynb_checkpoints`), count only where the URL names them. Raises
    UserError for a URL that matches no file or cannot be asked, and for one that names a file of no known
    format.
    """
    found: set[tuple[str, str]] = set()
    for source in sources:
        for url in source.urls:
            pattern = files.absolute(url)
            with _told(f"source {source.name}: ", f"{url} cannot be listed"):
                matches = files.list_files(pattern)
            if matches == [pattern]:
                if source.format == "auto" and not ingest.possible_formats(pattern):
                    ingest.file_format(pattern, source)
            else:
                matches = _without_notes(matches)
                matches = _without_readme(matches) if source.format == "auto" else matches
            matches = [match for match in matches if _hidden(match) == _hidden(pattern)]
            if not matches:
                raise UserError(f"source {source.name}: no file matches {url}")
            found.update((source.name, match) for match in matches)
    return found


def _hidden(url: str) -> int:
    """How many of the names in a URL begin as those do that are no data to Spark and `datasets`."""
    return sum(name.startswith(("_", ".")) for name in decompress.file_name(url).split("/"))


def _without_notes(names: list[str]) -> list[str]:
    """Files without those that `datasets` has put beside its data: notes, and caches of what was made of it.

    Raises UserError if a file is not there that the state.json of a saved dataset names.
    """
    folders: dict[str, set[str]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        folders.setdefault(folder, set()).add(last)
    above = set()
    for folder, lasts in folders.items():
        state = files.join(folder, "state.json")
        tables = {last for last in lasts if last.endswith(".arrow") or "." not in last}
        caches = {last for last in lasts if _CACHE.fullmatch(last)}
        whole = lasts >= _NOTES  # else a pattern has chosen some of the files
        if whole or (caches and files.exists(state)):
            above.add(folder.rpartition("/")[0])
            data = _data_files(state) or tables - caches
            if whole and (missing := sorted(data - lasts)):
                raise UserError(f"{state} names {missing[0]}, which is not there")
            lasts -= (tables - data) | _NOTES
        elif tables and "dataset_info.json" in lasts:
            lasts -= caches | _NOTES
    for folder in above & folders.keys():
        folders[folder].discard("dataset_dict.json")
    return sorted(
        f"{folder}/{last}" if folder else last for folder, lasts in folders.items() for last in lasts
    )


def _without_readme(names: list[str]) -> list[str]:
    """Files without what people write about data, in folders where files of records lie in or below."""
    above: set[str] = set()
    for name in names:
        formats = ingest.possible_formats(name)
        if formats and formats[0].name != "text" and not _README.fullmatch(name.rpartition("/")[2]):
            folder = name.rpartition("/")[0]
            while folder and folder not in above:
                above.add(folder)
                folder = folder.rpartition("/")[0]
    return [
        name
        for name in names
        if not (_README.fullmatch(name.rpartition("/")[2]) and name.rpartition("/")[0] in above)
    ]


def _data_files(state: str) -> set[str]:
    """The files of tables that a state.json of `datasets` names, if it names any."""
    with _told("", f"{state} cannot be read"):
        content = files.read_bytes(state)
    try:
        return {str(item["filename"]) for item in json.loads(content)["_data_files"]}
    except (ValueError, KeyError, TypeError):
        return set()


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
        shown = Counter(map(_shown, names))
        # Names that differ in what is hidden may be of different files.
        noted = [known.get(_shown(file)) if shown[_shown(file)] == 1 else None for file in names]
        facts = dict(zip(names, pool.map(_facts, names, noted), strict=True))
        remembered = {_shown(file): fact.to_json() for file, fact in facts.items()}
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
def _told(what: str, problem: str) -> Iterator[None]:
    """Turn what a storage raises into a UserError that begins with `what`."""
    try:
        yield
    except UserError:
        raise
    except StorageError as error:
        raise UserError(f"{what}{error}") from None
    except Exception as error:
        if not isinstance(error, OSError) and mistake(error) is None:
            raise
        raise UserError(f"{what}{problem}: {error}") from None


def _facts(file: str, noted: FileFacts | None) -> FileFacts:
    """The facts of a file; `noted` are those that are remembered, if there are some."""
    filesystem, path = files.split(file)
    with _told("input file ", f"{file} cannot be read"):
        try:
            info = filesystem.info(path)
            tag = files.checksum_of(info)
            times = (info.get(name) for name in ("mtime", "LastModified", "Last-Modified", "created"))
            stamp = tag or next(filter(None, times), None)
            if info["size"] is None:
                raise UserError(f"the size of input file {file} is not told; download it first")
            if noted and stamp and (noted.bytes, noted.stamp) == (info["size"], str(stamp)):
                return noted
            return FileFacts(
                bytes=info["size"],
                stamp=str(stamp),
                digest=tag or files.digest(file),
            )
        except FileNotFoundError:
            local = files.local_path(file)
            what = "a link to something that is not there" if local and os.path.islink(local) else "gone"
            raise UserError(f"input file {file} is {what}") from None


def _part(source: str, file: str, facts: FileFacts, place: list[str]) -> str:
    names = [source, hide(file), str(facts.bytes), facts.digest, *place]
    return xxhash.xxh3_64_hexdigest("\0".join(names).encode(errors="surrogateescape"))
