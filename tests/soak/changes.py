"""Ways in which a file may be changed by chance, or by somebody who knows what it is."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from base import seals

NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(2**63), 1e308, float("nan"), float("inf"), 0.5]
STRINGS = [
    "",
    "..",
    "../../../sentinel/file.json",
    "/",
    "\0",
    "a\0b",
    "\ud800",
    "x" * 5000,
    "::",
    "http://[::1",
    "v0001",
]
KNOWING = frozenset(
    {
        "JSON changed and sealed",
        "JSON changed and its seal removed",
        "another schema",
        "no rows",
        "header changed",
        "a line changed",
    }
)
"""Ways of somebody who knows what the file is: what comes of it may be what that person wanted."""
OTHERS: list[Any] = [None, True, False, [], {}, [[]], {"a": 1}, "1", 1, "é"]


def change(target: Path, others: list[Path], choose: random.Random) -> str:
    """Change a file in a way that is drawn; says which."""
    content = target.read_bytes()
    ways: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: content[: choose.randrange(max(len(content), 1))],
        lambda: _flipped(content, choose),
        lambda: _zeroed(content, choose),
        lambda: choose.choice(others).read_bytes(),
        lambda: _sibling(target, others, choose),
    ]
    names = ["empty", "cut", "flipped", "zeroed", "swapped", "swapped with its like"]
    known = _known(target, content, choose)
    if known and choose.random() < 0.6:
        name = choose.choice(sorted(known))
        changed = known[name]()
    else:
        number = choose.randrange(len(ways))
        name, changed = names[number], ways[number]()
    target.unlink()
    target.write_bytes(changed)
    return name


def _known(target: Path, content: bytes, choose: random.Random) -> dict[str, Callable[[], bytes]]:
    """Ways of somebody who knows what the file is."""
    if target.suffix in (".json", ".yaml"):
        return {
            "JSON changed": lambda: _json(content, target, choose, seal=False),
            "JSON changed and sealed": lambda: _json(content, target, choose, seal=True),
            "JSON changed and its seal removed": lambda: _json(content, target, choose, seal=None),
        }
    if target.suffix == ".jsonl":
        return {"a line changed": lambda: _line(content, choose)}
    if target.suffix == ".parquet":
        return {
            "another schema": lambda: _parquet(content, choose, rows=True),
            "no rows": lambda: _parquet(content, choose, rows=False),
        }
    if target.suffix == ".arrow":
        return {
            "another schema": lambda: _arrow(content, choose, rows=True),
            "no rows": lambda: _arrow(content, choose, rows=False),
        }
    if target.suffix == ".safetensors":
        return {"header changed": lambda: _safetensors(content, choose)}
    return {}


def _flipped(content: bytes, choose: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(choose.choice([1, 1, 1, 3, 30])):
        if changed:
            changed[choose.randrange(len(changed))] ^= choose.randrange(1, 256)
    return bytes(changed)


def _zeroed(content: bytes, choose: random.Random) -> bytes:
    first = choose.randrange(max(len(content), 1))
    stop = min(len(content), first + choose.choice([16, 512, 4096, 2**20]))
    return content[:first] + bytes(stop - first) + content[stop:]


def _sibling(target: Path, others: list[Path], choose: random.Random) -> bytes:
    alike = [path for path in others if path.suffix == target.suffix and path != target]
    return choose.choice(alike or others).read_bytes()


def _json(content: bytes, target: Path, choose: random.Random, *, seal: bool | None) -> bytes:
    """JSON with something changed; its seal follows, stays as it was, or goes (None)."""
    value = json.loads(content)
    before = value.pop(seals.FIELD, None) if isinstance(value, dict) else None
    for _ in range(choose.choice([1, 1, 2])):
        value = _changed(value, choose)
    if before is not None and isinstance(value, dict):
        if seal:
            plain = ("training", "checkpoints", "evaluation", "inference")
            value = seals.sealed(value, b"" if target.parts[-3] in plain else seals.name_of(str(target)))
        elif seal is False:
            value = {**value, seals.FIELD: before}
    return json.dumps(value).encode(errors="surrogatepass")


def _changed(value: Any, choose: random.Random) -> Any:
    """A JSON value with one thing changed somewhere in it."""
    if isinstance(value, dict | list) and value and choose.random() < 0.85:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = choose.choice(keys)
        changed: Any = value.copy()
        way = choose.random()
        if way < 0.1:
            del changed[key]
        elif way < 0.2 and isinstance(value, dict):
            changed[choose.choice(STRINGS)] = changed.pop(key)
        elif way < 0.25 and isinstance(value, list):
            changed.append(value[key])
        else:
            changed[key] = _changed(value[key], choose)
        return changed
    way = choose.random()
    if way < 0.05:
        nested: Any = []
        for _ in range(choose.choice([50, 900])):
            nested = [nested]
        return nested
    if isinstance(value, int | float) and way < 0.6:
        return choose.choice([*NUMBERS, value + 1, -value])
    if isinstance(value, str) and way < 0.6:
        return choose.choice([*STRINGS, value + "x", value[:-1], value.upper()])
    return choose.choice([*NUMBERS, *STRINGS, *OTHERS])


def _line(content: bytes, choose: random.Random) -> bytes:
    lines = content.splitlines()
    number = choose.randrange(len(lines))
    lines[number] = json.dumps(_changed(json.loads(lines[number]), choose)).encode(errors="surrogatepass")
    return b"\n".join(lines) + b"\n"


def _other_table(table: pa.Table, choose: random.Random) -> pa.Table:
    """A table without a column, or with one of another name or type."""
    number = choose.randrange(table.num_columns)
    name = table.column_names[number]
    way = choose.randrange(4)
    if way == 0:
        return table.remove_column(number)
    if way == 1:
        return table.rename_columns([f"{one}x" if one == name else one for one in table.column_names])
    kind = choose.choice([pa.string(), pa.float64(), pa.list_(pa.int8()), pa.int64(), pa.binary()])
    return table.set_column(number, name, pa.nulls(table.num_rows, kind))


def _parquet(content: bytes, choose: random.Random, *, rows: bool) -> bytes:
    table = pq.read_table(pa.BufferReader(content))
    if table.num_columns:
        table = _other_table(table, choose) if rows else table.slice(0, 0)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def _arrow(content: bytes, choose: random.Random, *, rows: bool) -> bytes:
    table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    table = _other_table(table, choose) if rows else table.slice(0, 0)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _safetensors(content: bytes, choose: random.Random) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    if choose.random() < 0.3:
        return struct.pack("<Q", choose.choice([0, 1, length + 1, 2**63, 2**64 - 1, 10**8])) + content[8:]
    header = json.dumps(_changed(json.loads(content[8 : 8 + length]), choose)).encode(errors="surrogatepass")
    return struct.pack("<Q", len(header)) + header + content[8 + length :]
