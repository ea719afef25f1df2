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
