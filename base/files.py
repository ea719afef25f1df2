"""Reading and atomic writing on any fsspec URL.

A write is visible under its final name only when it is complete and on the disk: a local file is written
under a temporary name, synced and renamed, any other is spooled to local disk and uploaded as a whole.
"""

import contextlib
import errno
import inspect
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from fsspec.dircache import DirCache
from fsspec.implementations.local import LocalFileSystem

from base import seals
from base.credentials import hide
from base.damage import damaged, reached, readable, sound
from base.errors import UserError

TEMPORARY = ".tmp-"
READ_BYTES = 8 * 2**20
EXCLUSIVE = frozenset({"file", "local", "memory", "s3", "s3a", "gs", "gcs"})
"""Protocols of storages that create a file only if there is none of its name."""
BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "tos"})
"""Protocols of storages without folders, in which making one would make the bucket."""
SYNCS = 8
"""Files that are synced at the same time."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_FORBIDDEN = _FULL | {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


def split(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL and the path within it.

    What other processes write is seen at once: no listing is remembered. `::` is part of a name but where the
    protocol before it opens what the URL after it names. Raises UserError for a protocol that fsspec does not
    know or whose package is not installed, and for what can be no path.
    """
    try:
        if "\0" in url:
            raise ValueError("a null byte is in it")
        url.encode(errors="surrogateescape")  # half of a surrogate pair is no text, but bytes of a name
        if "::" in url and not _is_chain(url):
            before, mark, _ = url.partition("://")
            kind = fsspec.get_filesystem_class(before if mark and "::" not in before else "file")
            filesystem, path = kind(**kind._get_kwargs_from_urls(url)), kind._strip_protocol(url)
        else:
            filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{ascii(url)[1:-1]} cannot be opened: {error}") from None
    if isinstance(filesystem.dircache, DirCache) and filesystem.dircache.use_listings_cache:
        filesystem.dircache.use_listings_cache = False
        filesystem.dircache.clear()
    return filesystem, path


def _is_chain(url: str) -> bool:
    """Whether a URL with `::` in it is several, as simplecache::s3://x/y and zip://a::b.zip are."""
    protocol = url.partition("::")[0].partition("://")[0]
    if protocol not in fsspec.available_protocols():
        return False
    kinds = fsspec.get_filesystem_class(protocol).__mro__
    names = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    return not names.isdisjoint({"fo", "fs", "target_protocol"})


def join(url: str, *parts: str) -> str:
    """`url` with `parts` appended, separated by single slashes."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def below(folder: str, path: str) -> str:
    """The URL of a relative path that somebody else may have written, below `folder`.

    Raises UserError for a path that is empty or leaves the folder.
    """
    parts = path.split("/") if isinstance(path, str) else []
    if (
        not parts
        or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)
        or "::" in path
    ):
        raise UserError(f"{path!r} is no path below {folder}")
    return join(folder, path)


def name_below(folder: str, name: str) -> None:
    """Raise UserError for what is not the name of one file or folder below `folder`."""
    below(folder, name)
    if "/" in name:
        raise UserError(f"{name!r} is no name below {folder}")


def absolute(url: str) -> str:
    """`url` unchanged if it names a protocol, else the absolute local path."""
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def local_path(url: str) -> str | None:
    """The local path of `url`, or None if it lives on another file system."""
    filesystem, path = split(url)
    return path if isinstance(filesystem, LocalFileSystem) else None


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    filesystem, path = split(url)
    with reached(url):
        return bool(filesystem.exists(path))


def size(url: str) -> int:
    """Bytes of a file."""
    filesystem, path = split(url)
    with reached(url):
        return int(filesystem.size(path))


def whole(url: str) -> bool:
    """Whether a file of work is there and not empty; of a local Parquet file, also whether its seal is whole.

    A remote file is there as a whole or not at all, and is asked for once.
    """
    filesystem, path = split(url)
    if isinstance(filesystem, LocalFileSystem):
        return _whole(path)
    try:
        return bool(size(url))
    except FileNotFoundError:
        return False


def whole_names(folder: str) -> set[str]:
    """Names of the files in a folder that are whole; a remote folder is listed, and no file asked for."""
    filesystem, path = split(folder)
    if not isinstance(filesystem, LocalFileSystem):
        with reached(folder):
            found = filesystem.find(path, detail=True) if filesystem.exists(path) else {}
        return {PurePosixPath(name).name for name, info in found.items() if info["size"]}
    names = os.listdir(path) if os.path.isdir(path) else []
    return {name for name in names if TEMPORARY not in name and _whole(os.path.join(path, name))}


def _whole(path: str) -> bool:
    """Whether a local file of work is there and not empty, and its seal is whole if it is a Parquet file."""
    try:
        with open(path, "rb") as file:
            if path.endswith(".parquet"):
                return seals.is_whole(file, path)
            return file.seek(0, os.SEEK_END) > 0
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def digest(url: str) -> str:
    """xxh3-128 of a file's bytes, hex."""
    filesystem, path = split(url)
    state = xxhash.xxh3_128()
    with reached(url), filesystem.open(path, "rb") as stream:
        while block := stream.read(READ_BYTES):
            state.update(block)
    return state.hexdigest()


def checksum(url: str) -> str | None:
    """What an object store tells of a file's content without reading it; None where it tells nothing."""
    filesystem, path = split(url)
    with reached(url):
        return checksum_of(filesystem.info(path))


def checksum_of(info: dict[str, Any]) -> str | None:
    """The checksum in what a file system tells of a file, by the names of S3, Google Cloud, Azure and hf."""
    names = ("ETag", "md5Hash", "etag", "blob_id")
    return next((str(info[name]) for name in names if info.get(name)), None)


def check_digest(url: str, wanted: str | None) -> None:
    """Raise UserError if a local file has another digest; a remote one is not read for that."""
    if wanted is not None and local_path(url) is not None:
        with readable(url):
            found = digest(url)
        if found != wanted:
            raise damaged(url, f"its digest is {found}, the manifest says {wanted}")


def remove(url: str) -> None:
    """Remove a file or a whole folder; nothing happens if it is not there."""
    filesystem, path = split(url)
    with reached(url):
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)


def put_aside(url: str) -> None:
    """Move a damaged file to another name, so that one can be created again."""
    filesystem, path = split(url)
    filesystem.mv(path, f"{path}.damaged")


def list_files(pattern: str) -> list[str]:
    """The file of that name, or all that match a glob pattern or lie below a folder, sorted, as URLs.

    An address of the web is a folder if it ends in a slash. Links to folders are followed, to each once.
    """
    filesystem, path = split(pattern)
    with reached(pattern):
        if _is_folder(filesystem, path):
            local = isinstance(filesystem, LocalFileSystem)
            names = list(_below(path)) if local else filesystem.find(path)
        elif filesystem.exists(path):
            names = [path]
        elif any(character in path for character in "*?["):
            matches = filesystem.glob(path, detail=True)
            # Another type may still be a folder: a link to one.
            names = [
                name
                for name in matches
                if matches[name]["type"] == "file" or not _is_folder(filesystem, name)
            ]
        else:
            names = []
    names = sorted(name for name in names if not PurePosixPath(name).name.startswith(TEMPORARY))
    if isinstance(filesystem, LocalFileSystem):
        return names
    return [filesystem.unstrip_protocol(name) for name in names]


def _below(path: str) -> Iterator[str]:
    """The files below a local folder; links to folders lead to theirs, unless these lie in the folder too."""
    root = os.path.join(os.path.realpath(path), "")
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in links:
            target = os.path.join(os.path.realpath(os.path.join(folder, name)), "")
            if target.startswith(root) or root.startswith(target):
                folders.remove(name)
        folders.sort(key=lambda name: (name in links, name))
        for name in names:
            whole = os.path.join(folder, name)
            if os.path.isfile(whole) or os.path.islink(whole):
                yield whole


def _is_folder(filesystem: fsspec.AbstractFileSystem, path: str) -> bool:
    # To fsspec, what is on the web is a folder if it holds links, for which it would read all of a file.
    if "http" in filesystem.protocol:
        return path.endswith("/")
    return bool(filesystem.isdir(path))


@dataclass(frozen=True)
class _Written:
    """A local file that is whole and has not got its name yet."""

    url: str
    temporary: str
    path: str
    descriptor: int


_together: ContextVar[list[_Written] | None] = ContextVar("_together", default=None)
"""What was written in the block `together` that this thread is in."""


@contextmanager
def together() -> Iterator[None]:
    """Local files that this thread writes in the block appear when it ends, and none of them when it raises.

    They are synced at the same time, which on most disks takes little longer than one. What announces them, a
    mark or a manifest, is to be written after the block.
    """
    written: list[_Written] = []
    token = _together.set(written)
    try:
        yield
        _publish(written)
    finally:
        _together.reset(token)
        for file in written:
            os.close(file.descriptor)
            with suppress(FileNotFoundError):
                os.unlink(file.temporary)


def _publish(written: list[_Written]) -> None:
    """Bring files to the disk, then give them their names, then bring these to the disk."""

    def sync_content(file: _Written) -> None:
        with _mendable(file.url, _FULL):
            os.fsync(file.descriptor)

    _at_once(sync_content, written)
    for file in written:
        with _mendable(file.url, _FORBIDDEN):
            os.replace(file.temporary, file.path)
    _at_once(sync, list(dict.fromkeys(os.path.dirname(file.path) for file in written)))


def _at_once(function: Callable[[Any], None], items: list[Any]) -> None:
    """Call a function that waits for a disk for all items at the same time."""
    if len(items) > 1:
        with ThreadPoolExecutor(SYNCS) as threads:
            list(threads.map(function, items))
    else:
        list(map(function, items))


@contextmanager
def atomic_writer(url: str) -> Iterator[IO[bytes]]:
    """A binary file that appears at `url` when the block ends, and not at all when it raises.

    It is on the disk then, so that no power cut takes it away; within `together`, when that block ends.
    Raises UserError naming the file where the disk is full or may not be written.
    """
    filesystem, path = split(url)
    if isinstance(filesystem, LocalFileSystem):
        with together() if _together.get() is None else nullcontext(), _local_writer(url, path) as file:
            yield file
        return
    with _mendable(f"{url} by way of {tempfile.gettempdir()}", _FULL), tempfile.NamedTemporaryFile() as spool:
        yield spool
        spool.flush()
        upload(spool.name, url)


def upload(local: str, url: str) -> None:
    """Copy a local file to a remote URL, where it appears whole. Raises UserError if there is no bucket."""
    filesystem, path = split(url)
    with reached(url), _mendable(url, _FORBIDDEN), _in_folder(filesystem, url, path):
        filesystem.put_file(local, path)


@contextmanager
def _in_folder(filesystem: fsspec.AbstractFileSystem, url: str, path: str) -> Iterator[None]:
    """Make the folder of a remote file that is written in the block, but no bucket: it may be a slip."""
    if not _is_one_of(filesystem, BUCKETS):
        filesystem.makedirs(filesystem._parent(path), exist_ok=True)
        yield
        return
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"cannot write {url}: there is no bucket {path.partition('/')[0]}; create it, or mend its name"
        ) from None


@contextmanager
def _local_writer(url: str, path: str) -> Iterator[IO[bytes]]:
    """A file that the block `together` around gives its name."""
    written = _together.get()
    assert written is not None
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{name}")
    try:
        with _mendable(url, _FORBIDDEN):
            make_folder(folder)
            opened = open(temporary, "wb")  # noqa: SIM115
        with _mendable(url, _FULL), opened as file:
            yield file
            file.flush()
            descriptor = os.dup(file.fileno())
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    written.append(_Written(url, temporary, path, descriptor))


def make_folder(path: str) -> None:
    """Make a local folder and those above it, their names on the disk."""
    missing = []
    while not os.path.isdir(path) and path not in missing:
        missing.append(path)
        path = os.path.dirname(path) or "."
    for folder in reversed(missing):
        os.makedirs(folder, exist_ok=True)
        sync(os.path.dirname(folder) or ".")


def sync(path: str) -> None:
    """Bring a local file, or the names in a local folder, to the disk: a power cut loses them before that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _mendable(url: str, errors: frozenset[int]) -> Iterator[None]:
    """Turn errors of the operating system that a person can mend into UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in errors:
            raise
        raise UserError(f"cannot write {url}: {os.strerror(error.errno).lower()}") from None


def read_bytes(url: str) -> bytes:
    """The whole content of a file."""
    filesystem, path = split(url)
    with readable(url), filesystem.open(path, "rb") as file:
        content: bytes = file.read()
    return content


def write_bytes(url: str, content: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_writer(url) as file:
        file.write(content)


def creates_exclusively(url: str) -> bool:
    """Whether the storage of a URL creates a file only if there is none of its name: see `create`."""
    return _is_one_of(split(url)[0], EXCLUSIVE)


def _is_one_of(filesystem: fsspec.AbstractFileSystem, protocols: frozenset[str]) -> bool:
    found = filesystem.protocol
    return bool(protocols & ({found} if isinstance(found, str) else {*found}))


def create(url: str, content: bytes) -> bool:
    """Create a file that is there whole and on the disk or not at all; whether it has that content now.

    False: one of that name is there with other content, which stays. Of several that create a file at the
    same moment one does. A storage that cannot do that (creates_exclusively) is asked first instead, and so
    is a local disk without hard links.
    """
    filesystem, path = split(url)
    try:
        with reached(url), _mendable(url, _FORBIDDEN - {errno.EEXIST}):
            if isinstance(filesystem, LocalFileSystem):
                _create_local(path, content)
            elif creates_exclusively(url):
                with _in_folder(filesystem, url, path):
                    filesystem.pipe_file(path, content, mode="create")
            elif filesystem.exists(path):
                raise FileExistsError
            else:
                with _in_folder(filesystem, url, path):
                    filesystem.pipe_file(path, content)
    except FileExistsError:  # of another one, or of this one when the answer was lost and it was sent again
        with contextlib.suppress(FileNotFoundError):
            return read_bytes(url) == content
        return False
    return True


def _create_local(path: str, content: bytes) -> None:
    """Raises FileExistsError if the name is taken, FileNotFoundError if somebody removed what is written."""
    folder, name = os.path.split(path)
    make_folder(folder)
    temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{name}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.exists(path):
                raise FileExistsError from None
            os.replace(temporary, path)
        sync(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def sweep(url: str, *, deep: bool) -> None:
    """Remove what is half written in a local folder: who writes it cannot give it its name any more.

    deep: in the folders below it, too.
    """
    local = local_path(url)
    for folder, folders, names in os.walk(local) if local is not None else ():
        for name in [name for name in folders if name.startswith(TEMPORARY)]:
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
            folders.remove(name)
        for name in names:
            if name.startswith(TEMPORARY):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))
        if not deep:
            return


def read_json(url: str) -> Any:
    """The value of a JSON file. Raises UserError that names it if it is none."""
    content = read_bytes(url)
    with sound(url):
        value = json.loads(content)
        if b"\\u" in content:  # halves of surrogate pairs are no text, and could not be written again
            json.dumps(value, ensure_ascii=False).encode()
        return value


def write_json(url: str, value: Any) -> None:
    """Write a JSON file atomically, keys in the order given, so that equal values give equal bytes."""
    write_bytes(url, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What write_json writes of a value."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def write_parquet(url: str, table: pa.Table, **options: Any) -> None:
    """Write a parquet file of work atomically, with a seal (zstd unless `options` say otherwise)."""
    with atomic_writer(url) as file:
        group = options.pop("row_group_size", None)
        writer = seals.ParquetWriter(file, url, table.schema, **options)
        writer.write_table(table, group)
        writer.close()


def read_parquet(url: str, columns: list[str] | pa.Schema | None = None) -> pa.Table:
    """Read a parquet file, or the named columns of it. Raises UserError that names a damaged one.

    columns: names, or a schema, of which every column must be there with its type and without nulls.
    """
    filesystem, path = split(url)
    names = columns.names if isinstance(columns, pa.Schema) else columns
    with sound(url), filesystem.open(path, "rb") as file:
        footer = seals.footer(file, url)
        _check_columns(footer.schema.to_arrow_schema(), columns or ())
        file.seek(0)
        table = pq.read_table(file, columns=names, page_checksum_verification=True)
        if isinstance(columns, pa.Schema) and any(column.null_count for column in table.columns):
            raise ValueError("it has nulls")
        return table


@contextmanager
def open_parquet(url: str, columns: Iterable[str] | pa.Schema = ()) -> Iterator[pq.ParquetFile]:
    """A parquet file of ours, which must have some columns (of some types), to read what is wanted of it.

    The block is for reading alone: what is raised there is taken for damage of the file.
    """
    filesystem, path = split(url)
    with sound(url), filesystem.open(path, "rb") as file:
        footer = seals.footer(file, url)
        opened = pq.ParquetFile(file, metadata=footer, page_checksum_verification=True)
        _check_columns(opened.schema_arrow, columns)
        yield opened


def _check_columns(schema: pa.Schema, columns: Iterable[str] | pa.Schema) -> None:
    names = columns.names if isinstance(columns, pa.Schema) else columns
    lacking = [name for name in names if name not in schema.names]
    if lacking:
        raise ValueError(f"it has no column {lacking[0]}")
    for field in columns if isinstance(columns, pa.Schema) else ():
        if schema.field(field.name).type != field.type:
            raise ValueError(f"its column {field.name} is {schema.field(field.name).type}")


def key_of(*values: Any) -> str:
    """16 hex digits that name the outputs of a stage: a hash of everything JSON that they depend on.

    Credentials in URLs do not count: a new password is no new input.
    """
    return xxhash.xxh3_64_hexdigest(hide(json.dumps(values, sort_keys=True)).encode())
