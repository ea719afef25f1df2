"""Files of work are what was written under their names, or it is told; marks are believed only with them."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base import arrow, files, seals
from base.damage import DamagedError, MissingError
from base.records import Mark, Record, made

TABLE = pa.table({"number": range(500), "text": [f"document {number % 7}" for number in range(500)]})


class Counted(Record):
    """A record."""

    count: int


def _parquet(url: str) -> None:
    files.write_parquet(url, TABLE, row_group_size=90)


def _arrow(url: str) -> None:
    with files.atomic_writer(url) as file:
        writer = arrow.Writer(file, url, TABLE.schema, compression="zstd")
        writer.write(TABLE.slice(0, 300))
        writer.write(TABLE.slice(300))
        writer.close()


def _json(url: str) -> None:
    Counted(count=12).write(url)


def _read_arrow(url: str) -> pa.Table:
    reader = arrow.open_file(url)
    return pa.Table.from_batches([reader.get_batch(number) for number in range(reader.num_record_batches)])


KINDS: dict[str, tuple[Callable[[str], None], Callable[[str], object]]] = {
    "parquet": (_parquet, files.read_parquet),
    "arrow": (_arrow, _read_arrow),
    "json": (_json, Counted.read),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_byte_of_a_sealed_file_changes_nothing_or_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a/b/c.{kind}"
    write, read = KINDS[kind]
    write(str(path))
    content, expected = path.read_bytes(), read(str(path))
    choose = random.Random(0)
    told = 0
    for _ in range(400):
        changed = bytearray(content)
        changed[choose.randrange(len(content))] ^= choose.randrange(1, 256)
        path.write_bytes(changed)
        try:
            assert read(str(path)) == expected
        except DamagedError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            told += 1
    assert told > 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_or_empty_or_not_there_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a/b/c.{kind}"
    write, read = KINDS[kind]
    write(str(path))
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedError, match=r"c\.[a-z]+ is damaged: "):
            read(str(path))
    path.unlink()
    with pytest.raises(MissingError, match=r"c\.[a-z]+ is missing"):
        read(str(path))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_another_file_in_its_place_is_told_and_a_moved_storage_is_not(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"here/stage/key/part.{kind}"
    write, read = KINDS[kind]
    write(str(path))
    moved = tmp_path / f"there/stage/key/part.{kind}"
    moved.parent.mkdir(parents=True)
    moved.write_bytes(path.read_bytes())
    assert read(str(moved)) == read(str(path))
    swapped = path.with_name(f"other.{kind}")
    swapped.write_bytes(path.read_bytes())
    with pytest.raises(DamagedError, match="it is another file|has changed"):
        read(str(swapped))


def test_a_sealed_parquet_file_is_one_to_everybody_and_one_without_seal_is_read(tmp_path: Path) -> None:
    url = str(tmp_path / "a/b/c.parquet")
    _parquet(url)
    assert pq.read_table(url).equals(TABLE) and files.whole(url)
    pq.write_table(TABLE, url)
    assert files.read_parquet(url).equals(TABLE) and not files.whole(url)
    with pytest.raises(DamagedError, match="it has no column absent"):
        files.read_parquet(url, ["number", "absent"])


def test_a_mark_is_believed_while_its_files_are_what_they_were(tmp_path: Path) -> None:
    def place(kind: str) -> str:
        return str(tmp_path / f"work/key/part.{kind}")

    def finished() -> Mark | None:
        return Mark.finished(place("json"), place)

    assert finished() is None
    _parquet(place("parquet"))
    files.write_bytes(place("tokens"), b"tokens")
    mark = Mark(made=made(place, ["parquet"], unsealed=["tokens"]))
    mark.write(place("json"))
    assert finished() == mark
    content = Path(place("json")).read_text()
    for changed in (
        "",
        "{",
        "[]",
        "3",
        json.dumps({"made": {}}),
        content.replace('"bytes": 6', '"bytes": 7'),
    ):
        Path(place("json")).write_text(changed)
        assert finished() is None, changed
    Path(place("json")).write_text(content)
    for kind, other in (("tokens", b"Tokens"), ("tokens", b""), ("parquet", b"")):
        before = files.read_bytes(place(kind))
        files.write_bytes(place(kind), other)
        assert finished() is None, kind
        files.write_bytes(place(kind), before)
    assert finished() == mark
    files.remove(place("parquet"))
    assert finished() is None


def test_names_of_whole_files(tmp_path: Path) -> None:
    folder = tmp_path / "phase"
    assert files.whole_names(str(folder)) == set()
    for name in ("00000", "00001", "00002"):
        _parquet(str(folder / f"{name}.parquet"))
    (folder / "00001.parquet").write_bytes(b"")
    content = (folder / "00002.parquet").read_bytes()
    (folder / "00002.parquet").write_bytes(content[:-5])
    assert files.whole_names(str(folder)) == {"00000.parquet"}


def test_a_remote_file_is_whole_when_it_has_bytes() -> None:
    folder = "memory://seals"
    files.write_bytes(f"{folder}/a.parquet", b"")
    _parquet(f"{folder}/b.parquet")
    assert files.whole_names(folder) == {"b.parquet"}
    assert [files.whole(f"{folder}/{name}.parquet") for name in "abc"] == [False, True, False]


def test_the_seal_of_a_value_is_of_its_place_where_that_counts() -> None:
    value = {"count": 3, "share": float("inf")}
    assert seals.unsealed(seals.sealed(value, b"a"), b"a") == value
    for place, needed in ((b"b", False), (b"", True)):
        with pytest.raises(ValueError, match="changed since"):
            seals.unsealed(seals.sealed(value, b"a"), place, needed=needed)
    assert seals.unsealed(value) == value
    with pytest.raises(ValueError, match="no seal"):
        seals.unsealed(value, needed=True)
