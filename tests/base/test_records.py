"""What is written as JSON is read back as it was, and nothing else is."""

import math
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from base import files
from base.errors import UserError
from base.records import Record


class Inner(Record):
    """A record in a record."""

    number: int
    share: float | None = None


class Outer(Record):
    """A record with what records have."""

    kind: int = Field(alias="schema")
    parent: str | None
    inner: Inner
    losses: list[float] = []
    note: str | None = None


def test_a_record_comes_back_and_leaves_out_what_does_not_apply(tmp_path: Path) -> None:
    url = str(tmp_path / "x.json")
    record = Outer(kind=1, parent=None, inner=Inner(number=3), losses=[math.inf, 0.5])
    record.write(url)
    written = files.read_json(url)
    assert written.pop("seal")
    assert written == {
        "schema": 1,
        "parent": None,
        "inner": {"number": 3},
        "losses": [math.inf, 0.5],
    }
    assert Outer.read(url) == record
    whole = Outer(kind=1, parent="p", inner=Inner(number=3, share=0.5), note="n")
    whole.write(url)
    assert list(files.read_json(url)) == ["schema", "parent", "inner", "losses", "note", "seal"]
    assert Outer.read(url) == whole
    Outer(kind=1, parent=None, inner=Inner(number=3), losses=[math.nan]).write(url)
    assert math.isnan(Outer.read(url).losses[0])


GOOD = {"schema": 1, "parent": None, "inner": {"number": 3}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema": "1"}, "schema"),
        ({"schema": 1.5}, "schema"),
        ({"parent": 3}, "parent"),
        ({"inner": {"number": "3"}}, "inner.number"),
        ({"inner": {"number": True}}, "inner.number"),
        ({"inner": {}}, "inner.number"),
        ({"inner": {"number": 3, "more": 1}}, "inner.more"),
        ({"more": 1}, "more"),
        ({"losses": ["0.5"]}, "losses.0"),
        ({"inner": None}, "inner"),
    ],
)
def test_a_record_of_other_values_is_one_sentence_that_names_the_field(
    tmp_path: Path, change: dict[str, object], field: str
) -> None:
    url = str(tmp_path / "x.json")
    files.write_json(url, GOOD)
    assert Outer.read(url).inner.number == 3
    files.write_json(url, GOOD | change)
    with pytest.raises(UserError, match=rf"x\.json is damaged or of another version: {field}: "):
        Outer.read(url)


def test_a_record_that_lacks_a_field_or_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the place is damaged or of another version: parent: "):
        Outer.from_json({"schema": 1, "inner": {"number": 3}}, "the place")
    with pytest.raises(UserError, match="the place is damaged or of another version: it: "):
        Outer.from_json([], "the place")


def test_a_record_never_changes() -> None:
    record = Inner(number=3)
    with pytest.raises(ValidationError):
        record.number = 4  # type: ignore[misc]
