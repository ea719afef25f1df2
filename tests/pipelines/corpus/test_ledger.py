"""The ledger balances if and only if nothing was lost or invented."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.ledger import STAGES, Ledger, LedgerError

Reasons = st.dictionaries(
    st.sampled_from(["short", "broken", "duplicate"]), st.lists(st.integers(1, 99), max_size=5)
)


def ledger_of(sources: dict[str, list[dict[str, list[int]]]], spare: int) -> Ledger:
    """A balanced ledger: each stage drops documents of the given sizes and lets `spare` more pass."""
    ledger = Ledger()
    for source, drops in sources.items():
        sizes = [size for stage in drops for group in stage.values() for size in group] + [7] * spare
        for name, stage_drops in zip(STAGES, drops, strict=False):
            stage = ledger.stage(source, name)
            stage.documents_in, stage.bytes_in = len(sizes), sum(sizes)
            for reason, group in stage_drops.items():
                stage.drop(reason, len(group), sum(group))
                for size in group:
                    sizes.remove(size)
            stage.documents_out, stage.bytes_out = len(sizes), sum(sizes)
    return ledger


Sources = st.dictionaries(st.sampled_from(["a", "b"]), st.lists(Reasons, min_size=1, max_size=6), min_size=1)


@given(Sources, st.integers(0, 3))
def test_a_balanced_ledger_passes_and_survives_json(sources: dict, spare: int) -> None:
    ledger = ledger_of(sources, spare)
    ledger.check()
    again = Ledger.from_json(ledger.to_json())
    again.check()
    assert again.to_json() == ledger.to_json()


@given(Sources, Sources, st.integers(0, 3))
def test_the_sum_of_balanced_parts_is_balanced_in_any_order(one: dict, two: dict, spare: int) -> None:
    stages = max(len(drops) for drops in [*one.values(), *two.values()])
    for drops in [*one.values(), *two.values()]:
        drops.extend({} for _ in range(stages - len(drops)))
    forward, backward = Ledger(), Ledger()
    for part in (ledger_of(one, spare), ledger_of(two, spare)):
        forward.add(part)
    for part in (ledger_of(two, spare), ledger_of(one, spare)):
        backward.add(part)
    forward.check()
    assert forward.to_json() == backward.to_json()


@given(Sources, st.sampled_from(["documents_in", "bytes_in", "documents_out", "bytes_out"]), st.data())
def test_any_count_that_is_off_by_one_is_found_and_named(
    sources: dict, field: str, data: st.DataObject
) -> None:
    ledger = ledger_of(sources, 1)
    source = data.draw(st.sampled_from(sorted(ledger.sources)))
    name = data.draw(st.sampled_from(sorted(ledger.sources[source])))
    stage = ledger.stage(source, name)
    setattr(stage, field, getattr(stage, field) + 1)
    with pytest.raises(LedgerError, match=f"source {source}"):
        ledger.check()


def test_changed_bytes_are_accounted_for() -> None:
    ledger = Ledger()
    stage = ledger.stage("a", "normalise")
    stage.documents_in, stage.bytes_in, stage.documents_out, stage.bytes_out = 1, 10, 1, 8
    with pytest.raises(LedgerError):
        ledger.check()
    stage.change("whitespace", -3)
    stage.change("nfc", 1)
    ledger.check()


@pytest.mark.parametrize("unit", ["documents", "bytes"])
@pytest.mark.parametrize("more", [1, -1])
@pytest.mark.parametrize("stages", [("read", "normalise", "quality"), ("read", "exact", "tokenize")])
@pytest.mark.parametrize("place", [1, 2])
def test_stages_that_each_balance_and_disagree_are_found(
    unit: str, more: int, stages: tuple[str, ...], place: int
) -> None:
    ledger = Ledger()
    for number, name in enumerate(stages):
        stage = ledger.stage("books", name)
        documents, size = (9 + more * (number >= place) * (one == unit) for one in ("documents", "bytes"))
        stage.documents_in = stage.documents_out = documents
        stage.bytes_in = stage.bytes_out = size
    before, after = stages[place - 1], stages[place]
    with pytest.raises(LedgerError, match=f"source books: {before} let out 9 .* but {after} took in"):
        ledger.check()


def test_every_source_is_checked() -> None:
    ledger = ledger_of({"a": [{}], "b": [{}], "c": [{}]}, 2)
    ledger.check()
    ledger.stage("c", "read").documents_out += 1
    with pytest.raises(LedgerError, match="source c, stage read: 2 documents in, 3 out and 0 dropped"):
        ledger.check()


def test_what_is_written_is_in_order_and_has_no_reason_for_nothing() -> None:
    ledger = Ledger()
    for source in ("b", "a"):
        for name in ("quality", "read"):
            stage = ledger.stage(source, name)
            for reason in ("y", "x", "y"):
                stage.drop(reason, 1, 5)
                stage.change(reason, 3)
            stage.drop("never", 0, 0)
            stage.change("never", 0)
    written = ledger.to_json()
    assert list(written) == ["a", "b"]
    assert [stage["stage"] for stage in written["a"]] == ["read", "quality"]
    dropped = {"x": {"documents": 1, "bytes": 5}, "y": {"documents": 2, "bytes": 10}}
    assert list(written["a"][0]["dropped"].items()) == list(dropped.items())
    assert list(written["a"][0]["bytes_delta"].items()) == [("x", 3), ("y", 6)]
    stage = ledger.stage("a", "read")
    assert (stage.documents_dropped, stage.bytes_dropped) == (3, 15)
    ledger.add(ledger)
    assert (stage.documents_dropped, stage.bytes_dropped, stage.bytes_delta["y"]) == (6, 30, 12)
