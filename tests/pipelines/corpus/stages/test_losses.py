"""How much of a source a stage may drop before the build stops."""

from collections.abc import Callable
from typing import Any

import pytest

from base.errors import UserError
from base.layout import Layout
from pipelines.corpus.ledger import Ledger, Stage
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.stages import losses
from pipelines.corpus.stages.measure import Measured


def measured(ledger: Ledger, read: dict[str, Stage]) -> Measured:
    """What was read, without any file."""
    return Measured(layout=Layout("/none"), inputs=(), keys={}, counts=(), ledger=ledger, read=read)


def lost(dropped: int, documents: int) -> Stage:
    stage = Stage(documents_in=documents, bytes_in=documents, documents_out=documents - dropped)
    stage.drop("short", dropped, dropped)
    return stage


def sources(**most: float) -> dict[str, SourceConfig]:
    return {name: SourceConfig(name=name, urls=["x"], max_loss=share) for name, share in most.items()}


def by_reading(stage: Stage, sources: dict[str, SourceConfig], stages: Any) -> None:
    losses.check_reading(measured(Ledger(), {"a": stage, "b": lost(0, 9)}), sources)


def by_cleaning(stage: Stage, sources: dict[str, SourceConfig], stages: Any) -> None:
    ledger = Ledger()
    ledger.sources = {"a": {"normalise": stage}, "b": {"read": lost(9, 9)}}
    losses.check_cleaning(measured(ledger, {}), sources)


def by_a_stage(stage: Stage, sources: dict[str, SourceConfig], stages: Any) -> None:
    ledger = Ledger()
    ledger.sources = {"a": {"fuzzy": stage}, "b": {"fuzzy": lost(0, 9), "quality": lost(9, 9)}}
    losses.check(ledger, ("exact", "fuzzy"), [], measured=measured(ledger, {}), sources=sources)


@pytest.mark.parametrize(
    ("check", "name"), [(by_reading, "read"), (by_cleaning, "normalise"), (by_a_stage, "fuzzy")]
)
@pytest.mark.parametrize(
    ("dropped", "documents", "most", "stops"),
    [(5, 10, 0.5, False), (6, 10, 0.5, True), (10, 10, 1.0, False), (0, 0, 0.1, False), (1, 1, 0.9, True)],
)
def test_a_share_that_may_be_lost_may_be_lost(
    check: Callable[..., None], name: str, dropped: int, documents: int, most: float, stops: bool
) -> None:
    stage, config = lost(dropped, documents), sources(a=most, b=0.1)
    if not stops:
        check(stage, config, None)
        return
    with pytest.raises(losses.SourceLossError) as error:
        check(stage, config, None)
    assert str(error.value) == (
        f"source a loses {dropped / documents:.0%} of its {documents} documents in stage {name} "
        f"(short {dropped}), more than max_loss {most:.0%}"
    )


def test_names_in_records_may_lose_what_the_strictest_source_with_names_may() -> None:
    config = sources(a=0.9, b=0.5, c=0.1)
    for name in ("a", "b"):
        config[name] = config[name].model_copy(update={"name_field": "meta.set"})
    ledger = Ledger()
    ledger.sources = {"wikipedia": {"quality": lost(5, 10)}}
    losses.check(ledger, ("quality",), [], measured=measured(ledger, {}), sources=config)
    ledger.sources = {"wikipedia": {"quality": lost(6, 10)}}
    with pytest.raises(losses.SourceLossError, match="source wikipedia loses 60% .* max_loss 50%"):
        losses.check(ledger, ("quality",), [], measured=measured(ledger, {}), sources=config)


def test_a_corpus_of_no_document_says_where_they_went() -> None:
    ledger = Ledger()
    ledger.sources = {
        "a": {"read": lost(2, 9), "quality": lost(4, 7), "exact": lost(3, 3)},
        "b": {"quality": lost(5, 5), "tokenize": lost(0, 0)},
    }
    read = {"a": lost(2, 9), "b": lost(0, 5)}
    with pytest.raises(UserError) as error:
        losses.check_documents(ledger, measured(ledger, read))
    assert str(error.value) == (
        "no document is left for a corpus: the files hold 14 records, "
        "and these were dropped: read 2, quality 9, exact 3"
    )
    ledger.sources["b"]["tokenize"] = lost(0, 1)
    losses.check_documents(ledger, measured(ledger, read))
    with pytest.raises(UserError, match="the files hold 0 records$"):
        losses.check_documents(Ledger(), measured(Ledger(), {}))
