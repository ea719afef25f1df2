"""The head of the report: what the version is, its size, and what each stage dropped."""

from dataclasses import dataclass

from base.manifest import Manifest
from pipelines.corpus.ledger import STAGES, Ledger, Stage
from pipelines.corpus.report import bysource
from pipelines.corpus.report.numbers import percentage, short_bytes, short_count


@dataclass(frozen=True, kw_only=True)
class Card:
    """A large number with what it is and what it means exactly."""

    title: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Documents dropped in one stage, and their share of those read in per cent."""

    stage: str
    documents: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The head of the report."""

    name: str
    version: str
    config_hash: str
    parent: str | None
    merged: str | None
    """URL of the version of another corpus that was taken in."""
    cards: list[Card]
    losses: list[Loss]


def section(manifest: Manifest, ledger: Ledger) -> Overview:
    """The head of the report."""
    return Overview(
        name=manifest.name,
        version=manifest.version,
        config_hash=manifest.config_hash,
        parent=manifest.parent,
        merged=manifest.merged.url if manifest.merged else None,
        cards=[*_text_cards(ledger), *_token_cards(manifest)],
        losses=_losses(ledger),
    )


def _text_cards(ledger: Ledger) -> list[Card]:
    """Documents and bytes of the input and of what is left of it."""
    read = bysource.summed(ledger, ledger.sources).get("read", Stage())
    last = [_last(stages) for stages in ledger.sources.values()]
    kept, left = sum(s.documents_out for s in last), sum(s.bytes_out for s in last)
    documents, size = read.documents_in, read.bytes_in
    return [
        Card(title="documents read", value=short_count(documents), note=f"{documents:,}"),
        Card(
            title="documents kept",
            value=short_count(kept),
            note=f"{percentage(kept, documents):.1f} % · {kept:,}",
        ),
        Card(title="text read", value=short_bytes(size), note=f"{size:,} bytes"),
        Card(
            title="text kept",
            value=short_bytes(left),
            note=f"{percentage(left, size):.1f} % · {left:,} bytes",
        ),
    ]


def _token_cards(manifest: Manifest) -> list[Card]:
    """Tokens of the whole version."""
    sources = manifest.sources.values()
    train = sum(source.tokens for source in sources)
    heldout = sum(source.heldout_tokens for source in sources)
    text = sum(source.text_bytes + source.heldout_text_bytes for source in sources)
    return [
        Card(
            title="tokens in the version",
            value=short_count(train + heldout),
            note=f"{train:,} for training, {heldout:,} held out",
        ),
        Card(
            title="bytes in a token",
            value=f"{text / (train + heldout):.2f}" if train + heldout else "–",
            note=f"vocabulary of {manifest.tokenizer.vocab_size:,}",
        ),
    ]


def _last(stages: bysource.Stages) -> Stage:
    """The counts of the last stage that a source went through."""
    return next((stages[name] for name in reversed(STAGES) if name in stages), Stage())


def _losses(ledger: Ledger) -> list[Loss]:
    """What each stage dropped that dropped anything."""
    stages = bysource.summed(ledger, ledger.sources)
    read = stages.get("read", Stage()).documents_in
    return [
        Loss(stage=bysource.STAGE_TITLES[stage], documents=lost, share=percentage(lost, read))
        for stage in STAGES
        if stage in stages and (lost := stages[stage].documents_dropped)
    ]
