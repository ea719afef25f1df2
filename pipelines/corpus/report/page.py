"""The HTML report of a corpus version: one file that opens anywhere without a network.

A section is a query over the version's tables, a dataclass of what is shown, and a part of the template.
Memory is bounded: histograms use at most parquet.SAMPLE_ROWS rows taken at even distances, cluster sizes a
share of the clusters chosen by their id, and examples are a few per source and reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from base import files
from base.contents import Contents
from base.layout import parent_of
from base.manifest import Manifest
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.report.bysource import by_size
from pipelines.corpus.report.excerpts import Documents
from pipelines.corpus.report.numbers import Format, short_bytes, short_count
from pipelines.corpus.report.parquet import even_sample
from pipelines.corpus.report.sections import (
    clusters,
    configuration,
    contamination,
    drops,
    examples,
    funnel,
    languages,
    lengths,
    measurements,
    overview,
    redaction,
    shards,
    sources,
    spelled,
)
from pipelines.corpus.text import quality


@dataclass(frozen=True, kw_only=True)
class Tables:
    """URLs of the tables that the report is made of."""

    dropped: dict[str, list[str]]
    """Dropped documents, by what dropped them: quality, duplicates or edits."""
    attributes: list[str]
    """Measured columns of the parts."""
    rejects: list[str]
    """Records that never became documents."""
    contamination: str | None
    """Benchmark passages in documents (shard.HITS)."""
    documents: dict[str, str]
    """Documents file of each part, to show excerpts of texts."""
    scores: list[str] = field(default_factory=list)
    """Scores of the parts by models."""


def write_report(
    manifest: Manifest,
    contents: Contents,
    tables: Tables,
    url: str,
    thresholds: dict[str, list[quality.Limit]] | None = None,
    write: Callable[[str, bytes], None] = files.write_bytes,
) -> None:
    """Write the report of a corpus version to `url`, which lies in the version's folder.

    Thresholds are by attribute column. Excerpts of texts show no personal data, even where the corpus keeps
    it.
    """
    ledger = Ledger.from_json(manifest.ledger)
    documents = Documents.of(manifest, contents.inputs, tables.documents)
    attributes = even_sample(tables.attributes)
    page = _rendered(
        overview=overview.section(manifest, ledger),
        funnel=funnel.section(manifest, contents.shards, ledger),
        drops=drops.section(ledger, manifest.unjudged or {}),
        examples=examples.section(ledger, tables.rejects, tables.dropped, documents),
        lengths=lengths.section(attributes, contents.shards, parent_of(url, 2), by_size(ledger)),
        clusters=clusters.section(chain.from_iterable(tables.dropped.values()), documents),
        quality=measurements.section(attributes, thresholds or {}),
        scores=measurements.section(even_sample(tables.scores), thresholds or {}),
        languages=languages.section(manifest.languages or {}),
        contamination=contamination.section(manifest.contamination or {}, tables.contamination, documents),
        redaction=redaction.section(manifest.redacted or {}),
        spelled=spelled.section(
            manifest.special_tokens or {}, manifest.config.get("tokenize", {}).get("special_tokens", "tokens")
        ),
        sources=sources.section(manifest.sources),
        shards=shards.section(contents.shards),
        configuration=configuration.section(manifest, contents.inputs),
    )
    write(url, page.encode(errors="replace"))


def _rendered(**sections: Any) -> str:
    """The page with its sections, by the names that templates/report.html has for them."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=_marked(short_count), bytes=_marked(short_bytes), exact=lambda value: f"{value:,}"
    )
    return environment.get_template("report.html").render(sections)


def _marked(form: Format) -> Callable[[int], Markup]:
    """A filter that writes a number short, with the exact one as its tooltip."""
    return lambda value: Markup('<span title="{}">{}</span>').format(f"{value:,}", form(value))
