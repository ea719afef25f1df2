"""The HTML report of a corpus version: one file that opens anywhere without a network.

Memory is bounded: histograms use at most SAMPLE_ROWS rows taken at even distances, cluster sizes a
share of the clusters chosen by their id, and examples are a few per source and reason.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from base import files
from pipelines.corpus.ledger import STAGES, Ledger, Stage, add_counts
from pipelines.corpus.report import pictures
from pipelines.corpus.report.pictures import short_bytes, short_count
from pipelines.corpus.stages.edit import EDIT_STAGES
from pipelines.corpus.stages.survivors import document_texts
from pipelines.corpus.text import quality, redact
from pipelines.corpus.text.settings import RedactConfig

SAMPLE_ROWS = 200_000
SAMPLE_FILES = 256
CLUSTER_ROWS = 2_000_000
EXAMPLES = 3
EXAMPLE_CHARACTERS = 300
MAX_EXAMPLES = 150
"""Pairs of source and reason that examples are shown of."""
MAX_LINES = 1000
"""Lines of the inputs and shards tables that are shown."""
MAX_SOURCES = 200
"""The largest sources, those that tables by source show; a last one sums the others."""
PICTURED = 30
"""The largest sources that a picture with a row for each shows."""
LARGEST_CLUSTERS = 15
MAX_ITEMS = 200
"""Benchmark items that are shown."""
MAX_LANGUAGES = 15
MEASURED = ("q_", "language_score")
"""How the columns begin of which distributions are shown."""
ALL = "all sources"

STAGE_TITLES = {
    "read": "reading",
    "normalise": "normalising",
    "quality": "quality rules",
    "exact": "exact dedup",
    "fuzzy": "fuzzy dedup",
    "spans": "repeated spans",
    "lines": "repeated lines",
    "decontaminate": "decontamination",
    "redact": "redaction",
    "tokenize": "tokenizing",
}


@dataclass(frozen=True)
class Tables:
    """URLs of the tables that the report is made of."""

    dropped: dict[str, list[str]]
    """Dropped documents, by stage."""
    attributes: list[str]
    """Measured columns of the parts."""
    rejects: list[str]
    """Records that never became documents."""
    contamination: str | None
    """Benchmark passages in documents (shard.HITS)."""
    documents: dict[str, str]
    """Documents file of each part, to show samples of text."""
    scores: list[str] = field(default_factory=list)
    """Scores of the parts by models."""


def write_report(
    manifest: dict[str, Any],
    tables: Tables,
    url: str,
    thresholds: dict[str, list[quality.Limit]] | None = None,
) -> None:
    """Write the report of a corpus version to `url`, which lies in the version's folder.

    `manifest` is the content of manifest.json; thresholds are by attribute column. Samples of text show no
    personal data, even where the corpus keeps it.
    """
    ledger = Ledger.from_json(manifest["ledger"])
    names = sorted(ledger.sources, key=lambda name: (-_stage(ledger, name, "read").bytes_in, name))
    total = _total(ledger)
    shown, shown_names, tokens = _shown(ledger, names, _new_tokens(manifest))
    sample = _sample_attributes(tables.attributes)
    redaction = RedactConfig.model_validate(manifest["config"].get("redact", {}))
    origins = {item["part"]: item["file"] for item in manifest["inputs"]}
    context = {
        "manifest": manifest,
        "cards": _cards(manifest, ledger),
        "summary": _summary(total),
        "funnel": _funnel(total, shown, shown_names, tokens),
        "funnel_picture": _funnel_picture(ledger, names),
        "reasons": _reasons(total, [ALL]),
        "reasons_by_source": _reasons(shown, shown_names),
        "changes": _changes(shown, shown_names),
        "examples": _examples(ledger, tables, origins, redaction),
        "lengths": _lengths(sample, manifest, url.rsplit("/", 2)[0], names),
        "clusters": _clusters(tables, redaction),
        "quality": _quality(sample, thresholds or {}),
        "scores": _quality(_sample_attributes(tables.scores), thresholds or {}),
        "languages": _languages(manifest.get("languages", {})),
        "contamination": _contamination(manifest.get("contamination", {}), tables, origins),
        "redacted": _redacted(manifest.get("redacted", {})),
        "sampled": None if sample is None else sample.num_rows,
        "sources": _sources(manifest),
        "shards": manifest["shards"],
        "max_lines": MAX_LINES,
        "pictured": PICTURED,
        "configuration": yaml.safe_dump(manifest["config"], sort_keys=False, allow_unicode=True),
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=_marked(short_count), bytes=_marked(short_bytes), exact=lambda value: f"{value:,}"
    )
    page = environment.get_template("report.html").render(context)
    files.write_bytes(url, page.encode(errors="replace"))


def _marked(form: pictures.Format) -> Any:
    """A filter that writes a number short, with the exact one as its tooltip."""
    return lambda value: Markup('<span title="{}">{}</span>').format(f"{value:,}", form(value))


def _share(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


def _stage(ledger: Ledger, source: str, stage: str) -> Stage:
    return ledger.sources[source].get(stage, Stage())


def _last(ledger: Ledger, source: str) -> Stage:
    """The last stage that a source went through."""
    stages = ledger.sources[source]
    return next((stages[name] for name in reversed(STAGES) if name in stages), Stage())


def _cards(manifest: dict[str, Any], ledger: Ledger) -> list[dict[str, str]]:
    first = [_stage(ledger, source, "read") for source in ledger.sources]
    last = [_last(ledger, source) for source in ledger.sources]
    documents, kept = sum(s.documents_in for s in first), sum(s.documents_out for s in last)
    size, left = sum(s.bytes_in for s in first), sum(s.bytes_out for s in last)
    sources = manifest["sources"].values()
    train = sum(source["tokens"] for source in sources)
    heldout = sum(source.get("heldout_tokens", 0) for source in sources)
    text = sum(source["text_bytes"] + source.get("heldout_text_bytes", 0) for source in sources)
    return [
        {"title": "documents read", "value": short_count(documents), "note": f"{documents:,}"},
        {
            "title": "documents kept",
            "value": short_count(kept),
            "note": f"{_share(kept, documents):.1f} % · {kept:,}",
        },
        {"title": "text read", "value": short_bytes(size), "note": f"{size:,} bytes"},
        {
            "title": "text kept",
            "value": short_bytes(left),
            "note": f"{_share(left, size):.1f} % · {left:,} bytes",
        },
        {
            "title": "tokens in the version",
            "value": short_count(train + heldout),
            "note": f"{train:,} for training, {heldout:,} held out",
        },
        {
            "title": "bytes in a token",
            "value": f"{text / (train + heldout):.2f}" if train + heldout else "–",
            "note": f"vocabulary of {manifest['tokenizer']['vocab_size']:,}",
        },
    ]


def _total(ledger: Ledger) -> Ledger:
    """The sums over all sources, as those of one source named ALL."""
    total = Ledger()
    total.sources[ALL] = {}
    for stages in ledger.sources.values():
        for stage, counts in stages.items():
            total.stage(ALL, stage).add(counts)
    return total


def _shown(
    ledger: Ledger, names: list[str], tokens: dict[str, int]
) -> tuple[Ledger, list[str], dict[str, int]]:
    """Ledger, names and tokens for tables by source: of the first MAX_SOURCES, and the sums of the others."""
    first, others = names[:MAX_SOURCES], names[MAX_SOURCES:]
    if not others:
        return ledger, names, tokens
    shown = Ledger()
    shown.sources = {name: ledger.sources[name] for name in first}
    for name in others:
        for stage, counts in ledger.sources[name].items():
            shown.stage(_more(others), stage).add(counts)
    left = sum(tokens.get(name, 0) for name in others)
    return shown, [*first, _more(others)], tokens | {_more(others): left}


def _more(others: list[str]) -> str:
    return f"and {len(others):,} more"


def _largest(counts: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """The counts of the MAX_SOURCES sources with the largest sums, by name, and the sums of the others."""
    order = sorted(counts, key=lambda name: (-sum(counts[name].values()), name))
    others = order[MAX_SOURCES:]
    shown = {name: counts[name] for name in sorted(order[:MAX_SOURCES])}
    for name in others:
        add_counts(shown, {_more(others): counts[name]})
    return shown


def _summary(total: Ledger) -> list[dict[str, Any]]:
    """Documents dropped in each stage as a share of those read."""
    counts = {stage: total.stage(ALL, stage) for stage in STAGES}
    read = counts["read"].documents_in
    return [
        {"stage": STAGE_TITLES[stage], "documents": lost, "share": _share(lost, read)}
        for stage in STAGES
        if (lost := counts[stage].documents_dropped)
    ]


def _new_tokens(manifest: dict[str, Any]) -> dict[str, int]:
    """Tokens of every source and of ALL in the shards that this version added."""
    tokens = {ALL: 0}
    for shard in manifest["shards"]:
        if shard["version"] == manifest["version"]:
            for name in (shard["source"], ALL):
                tokens[name] = tokens.get(name, 0) + shard["tokens"]
    return tokens


def _funnel(total: Ledger, ledger: Ledger, names: list[str], tokens: dict[str, int]) -> dict[str, Any]:
    """One row a source and one for all, one cell a stage: what is left after it."""
    stages = [name for name in STAGES if any(name in ledger.sources[source] for source in names)]
    rows = []
    for book, source in [(total, ALL), *((ledger, name) for name in names)]:
        read = _stage(book, source, "read")
        cells = [_stage(book, source, stage) for stage in stages]
        rows.append(
            {
                "source": source,
                "documents": read.documents_in,
                "bytes": read.bytes_in,
                "tokens": tokens.get(source, 0),
                "cells": [
                    {
                        "documents": cell.documents_out,
                        "bytes": cell.bytes_out,
                        "documents_share": _share(cell.documents_out, read.documents_in),
                        "bytes_share": _share(cell.bytes_out, read.bytes_in),
                    }
                    for cell in cells
                ],
            }
        )
    return {"stages": [STAGE_TITLES[name] for name in stages], "rows": rows}


def _funnel_picture(ledger: Ledger, names: list[str]) -> Markup:
    stages = [name for name in STAGES if any(name in ledger.sources[source] for source in names)]
    documents: dict[str, list[float]] = {}
    size: dict[str, list[float]] = {}
    for number, source in enumerate(names):
        cells = [_stage(ledger, source, stage) for stage in stages]
        label = source if number < len(pictures.SERIES) else "others"
        for left, first, after in (
            (documents, cells[0].documents_in, [cell.documents_out for cell in cells]),
            (size, cells[0].bytes_in, [cell.bytes_out for cell in cells]),
        ):
            below = left.get(label, [0] * (len(cells) + 1))
            left[label] = [old + new for old, new in zip(below, [first, *after], strict=True)]
    steps = ["input", *(STAGE_TITLES[stage] for stage in stages)]
    return Markup(
        pictures.funnel(steps, {"documents": (documents, short_count), "bytes": (size, short_bytes)})
    )


def _reasons(ledger: Ledger, names: list[str]) -> list[dict[str, Any]]:
    lines = []
    for stage in STAGES:
        for source in names:
            counts = _stage(ledger, source, stage)
            for reason, entry in sorted(counts.dropped.items(), key=lambda item: -item[1]["documents"]):
                lines.append(
                    {
                        "stage": STAGE_TITLES[stage],
                        "source": source,
                        "reason": reason,
                        "share": _share(entry["documents"], counts.documents_in),
                        **entry,
                    }
                )
    return lines


def _changes(ledger: Ledger, names: list[str]) -> list[dict[str, Any]]:
    return [
        {"stage": STAGE_TITLES[stage], "source": source, "reason": reason, "bytes": size}
        for stage in STAGES
        for source in names
        for reason, size in sorted(_stage(ledger, source, stage).bytes_delta.items())
    ]


Examples = dict[tuple[str, str, str], list[dict[str, Any]]]
"""Examples by stage, source and reason, each with place, detail and sample."""


TABLE_STAGES = {
    "read": ("read", "normalise"),
    "quality": ("quality",),
    "duplicates": ("exact", "fuzzy"),
    "edits": EDIT_STAGES,
}
"""The stages that put rows into a table of dropped documents or rejects."""


def _examples(ledger: Ledger, tables: Tables, origins: dict[str, str], redaction: RedactConfig) -> Examples:
    """The first records of each source and reason that were rejected, and the first documents dropped."""
    found: Examples = {}
    columns = ["source", "file", "record", "reason", "detail", "sample"]
    for row in _first_rows(found, ledger, "read", tables.rejects, columns):
        row["lines"].append(
            {
                "place": f"{row['file']}, record {row['record']}",
                "detail": row["detail"],
                "sample": (row["sample"] or "")[:EXAMPLE_CHARACTERS],
            }
        )
    columns = ["part", "row", "source", "stage", "reason", "value", "kept_id", "kept_version", "similarity"]
    for stage, urls in tables.dropped.items():
        for row in _first_rows(found, ledger, stage, urls, columns):
            row["lines"].append(
                {
                    "place": origins.get(row["part"], row["part"]),
                    "detail": _evidence(row),
                    "document": (row["part"], row["row"]),
                }
            )
    examples = _some_of_each(found)
    lines = [line for group in examples.values() for line in group if "document" in line]
    texts = _texts([line["document"] for line in lines], tables.documents, redaction)
    for line in lines:
        record, line["sample"] = texts.get(line["document"], (None, ""))
        number = f"document {line['document'][1]}" if record is None else f"record {record}"
        line["place"] += f", {number}"
    return examples


def _some_of_each(found: Examples) -> Examples:
    """MAX_EXAMPLES of the pairs of source and reason, of every reason some before one has more of them."""
    place: dict[str, int] = {}
    ranks = {}
    for key in found:
        ranks[key] = place[key[2]] = place.get(key[2], -1) + 1
    chosen = sorted(found, key=lambda key: ranks[key])[:MAX_EXAMPLES]
    order = {title: number for number, title in enumerate(STAGE_TITLES.values())}
    return {key: found[key] for key in sorted(chosen, key=lambda key: (order[key[0]], key[2], key[1]))}


def _stage_of(table: str, row: dict[str, Any]) -> str:
    """The title of the stage that dropped a row of a table."""
    by_reason = {"empty_text": "normalise", "exact_duplicate": "exact", "near_duplicate": "fuzzy"}
    return STAGE_TITLES[row.get("stage") or by_reason.get(row["reason"], table)]


def _texts(
    places: list[tuple[str, int]], documents: dict[str, str], redaction: RedactConfig
) -> dict[tuple[str, int], tuple[int, str]]:
    """Record and beginning, without personal data, of some documents by (part, row)."""
    found: dict[tuple[str, int], tuple[int, str]] = {}
    for part in sorted({part for part, _ in places if part in documents}):
        rows = np.unique([row for name, row in places if name == part])
        for positions, table in document_texts(documents[part], rows):
            texts = redact.excerpts(table["text"].combine_chunks(), EXAMPLE_CHARACTERS, redaction).to_pylist()
            numbers = table["record"].to_pylist()
            for row, record, text in zip(rows[positions].tolist(), numbers, texts, strict=True):
                found[part, row] = record, text
    return found


def _first_rows(
    found: Examples, ledger: Ledger, table: str, urls: list[str], columns: list[str]
) -> Iterator[dict[str, Any]]:
    """The first EXAMPLES rows of each (source, reason); "lines" is the list of `found` they belong to."""
    missing = {
        (STAGE_TITLES[stage], source, reason): min(EXAMPLES, entry["documents"])
        for stage in TABLE_STAGES[table]
        for source in ledger.sources
        for reason, entry in _stage(ledger, source, stage).dropped.items()
        if entry["documents"]
    }
    for rows in chain.from_iterable(_tables(url, columns) for url in urls):
        for (source, reason), group in _groups(rows):
            for row in group.slice(0, EXAMPLES).to_pylist():
                key = _stage_of(table, row), source, reason
                lines = found.setdefault(key, [])
                if len(lines) < EXAMPLES:
                    yield {**row, "lines": lines}
                    if len(lines) == missing.get(key):
                        del missing[key]
        if not missing:
            return


def _evidence(row: dict[str, Any]) -> str:
    facts = []
    if row.get("value") is not None:
        what = "n-grams of a benchmark" if row["reason"] == "contaminated" else "measured"
        facts.append(f"{what} {row['value']:.4g}")
    if row.get("similarity") is not None and row["reason"] != "exact_duplicate":
        facts.append(f"similarity {row['similarity']:.3f}")
    if row.get("kept_id") is not None:
        version = f" of {row['kept_version']}" if row.get("kept_version") else ""
        facts.append(f"kept {_hex(row['kept_id'])}{version}")
    return ", ".join(facts)


def _hex(identifier: Any) -> str:
    return identifier.hex() if isinstance(identifier, bytes) else str(identifier)


def _tables(url: str, columns: list[str]) -> Iterator[pa.Table]:
    """The row groups of a parquet file that hold rows, restricted to those columns it has."""
    filesystem, path = files.split(url)
    with filesystem.open(path, "rb") as stream:
        reader = pq.ParquetFile(stream)
        present = [name for name in columns if name in reader.schema_arrow.names]
        for group in range(reader.num_row_groups):
            if reader.metadata.row_group(group).num_rows:
                yield reader.read_row_group(group, columns=present)


def _footer(url: str) -> tuple[list[str], int]:
    """(columns, rows) of a parquet file."""
    filesystem, path = files.split(url)
    with filesystem.open(path, "rb") as stream:
        reader = pq.ParquetFile(stream)
        return reader.schema_arrow.names, reader.metadata.num_rows


def _groups(table: pa.Table) -> Iterator[tuple[tuple[str, str], pa.Table]]:
    """The rows of each (source, reason)."""
    sources, reasons = table["source"].cast(pa.string()), table["reason"].cast(pa.string())
    keys = pa.table({"source": sources, "reason": reasons}).group_by(["source", "reason"]).aggregate([])
    for key in keys.sort_by([("source", "ascending"), ("reason", "ascending")]).to_pylist():
        mask = pc.and_(pc.equal(sources, key["source"]), pc.equal(reasons, key["reason"]))
        yield (key["source"], key["reason"]), table.filter(mask)


def _sample_attributes(urls: list[str]) -> pa.Table | None:
    """Source, bytes and quality columns of at most about SAMPLE_ROWS documents at even distances."""
    urls = urls[:: -(-len(urls) // SAMPLE_FILES) or 1]
    with ThreadPoolExecutor(8) as pool:
        begins = list(accumulate((rows for _, rows in pool.map(_footer, urls)), initial=0))
        step = -(-begins[-1] // SAMPLE_ROWS)
        if not step:
            return None
        pieces = pool.map(lambda url, begin: _sample(url, begin, step), urls, begins)
        return pa.concat_tables(chain.from_iterable(pieces), promote_options="permissive")


def _sample(url: str, begin: int, step: int) -> list[pa.Table]:
    """Rows of one file of `_sample_attributes`, of which `begin` rows lie in files before it."""
    filesystem, path = files.split(url)
    pieces: list[pa.Table] = []
    with filesystem.open(path, "rb") as stream:
        reader = pq.ParquetFile(stream)
        others = ("source", "bytes", "n_control")
        names = [n for n in reader.schema_arrow.names if n in others or n.startswith(MEASURED)]
        for group in range(reader.num_row_groups):
            table = reader.read_row_group(group, columns=names)
            chosen = np.arange(-begin % step, table.num_rows, step)
            begin += table.num_rows
            if "source" in names:
                plain = table["source"].cast(pa.string())
                table = table.set_column(table.schema.get_field_index("source"), "source", plain)
            pieces.append(table.take(pa.array(chosen)))
    return pieces


def _lengths(
    sample: pa.Table | None, manifest: dict[str, Any], versions_url: str, names: list[str]
) -> list[Markup]:
    found = []
    if sample is not None:
        by_source = {
            name: sample.filter(pc.equal(sample["source"], name))["bytes"].to_numpy()
            for name in names[:PICTURED]
        }
        found.append(pictures.ridges(by_source, "bytes in a document, after cleaning", short_bytes))
    tokens = _token_counts(manifest, versions_url)
    if tokens:
        ordered = {name: tokens[name] for name in names if name in tokens} | tokens
        shown = dict(list(ordered.items())[:PICTURED])
        found.append(pictures.ridges(shown, "tokens in a document of the version", short_count))
    return [Markup(picture) for picture in found]


def _token_counts(manifest: dict[str, Any], versions_url: str) -> dict[str, np.ndarray]:
    """Tokens in each document of the first training shard of every source; shards are shuffled."""
    counts: dict[str, np.ndarray] = {}
    for shard in manifest["shards"]:
        url = files.join(versions_url, shard["path"])
        if shard["split"] != "train" or shard["source"] in counts or not files.exists(url):
            continue
        local = files.local_path(url)
        filesystem, path = files.split(url)
        with pa.memory_map(local) if local else filesystem.open(path, "rb") as stream:
            reader = pa.ipc.open_file(stream)
            lists = [reader.get_batch(i).column("input_ids") for i in range(reader.num_record_batches)]
            lengths = [np.diff(column.offsets.to_numpy()) for column in lists]
        counts[shard["source"]] = np.concatenate([np.zeros(0, np.int64), *lengths])[:SAMPLE_ROWS]
    return counts


def _clusters(tables: Tables, redaction: RedactConfig) -> dict[str, Any] | None:
    """Sizes of duplicate clusters, the largest of them, and similarities of the near-duplicates."""
    footers = {url: _footer(url) for group in tables.dropped.values() for url in group}
    urls = [url for url, (names, _) in footers.items() if "cluster" in names]
    rows = sum(footers[url][1] for url in urls)
    if not rows:
        return None
    modulus = -(-rows // CLUSTER_ROWS)
    columns = ["part", "row", "source", "reason", "cluster", "kept_id", "kept_version", "similarity", "bytes"]
    pieces = []
    for url in urls:
        for table in _tables(url, columns):
            keys = _cluster_keys(table["cluster"].combine_chunks())
            chosen = table.filter(pa.array(keys % np.uint64(modulus) == 0))
            for name in ("part", "source", "reason", "kept_version"):
                position = chosen.schema.get_field_index(name)
                chosen = chosen.set_column(position, name, chosen[name].cast(pa.string()))
            pieces.append(chosen)
    table = pa.concat_tables(pieces)
    grouped = table.group_by("cluster").aggregate(
        [
            ("bytes", "count"),
            ("bytes", "sum"),
            ("source", "count_distinct"),
            ("source", "min"),
            ("similarity", "min"),
            ("kept_id", "min"),
            ("kept_version", "min"),
        ]
    )
    order = [("bytes_count", "descending"), ("bytes_sum", "descending"), ("kept_id_min", "ascending")]
    largest = grouped.sort_by(order).slice(0, LARGEST_CLUSTERS).to_pylist()
    samples = _cluster_samples(table, [row["cluster"] for row in largest], tables.documents, redaction)
    near = table.filter(pc.equal(table["reason"], "near_duplicate"))["similarity"].drop_null().to_numpy()
    return {
        "one_in": modulus,
        "count": grouped.num_rows,
        "documents": table.num_rows,
        "bytes": pc.sum(table["bytes"]).as_py(),
        "sizes": Markup(
            pictures.sizes(grouped["bytes_count"].to_numpy() + 1, "documents in a duplicate cluster")
        ),
        "similarities": Markup(
            pictures.histogram(near, float(near.min()), 1.0, "Jaccard similarity of near-duplicates")
        )
        if len(near)
        else None,
        "largest": [
            {
                "documents": row["bytes_count"] + 1,
                "bytes": row["bytes_sum"],
                "source": row["source_min"],
                "others": row["source_count_distinct"] - 1,
                "similarity": row["similarity_min"],
                "kept": _hex(row["kept_id_min"]),
                "version": row["kept_version_min"],
                "sample": sample,
            }
            for row, sample in zip(largest, samples, strict=True)
        ],
    }


def _cluster_samples(
    table: pa.Table, clusters: list[Any], documents: dict[str, str], redaction: RedactConfig
) -> list[str]:
    """The beginning of the first dropped document of each cluster; empty where it is not at hand."""
    members = table.filter(pc.is_in(table["cluster"], pa.array(clusters, table["cluster"].type)))
    members = members.sort_by([("part", "ascending"), ("row", "ascending")])
    first: dict[Any, tuple[str, int]] = {}
    for cluster, part, row in zip(
        *(members[name].to_pylist() for name in ("cluster", "part", "row")), strict=True
    ):
        first.setdefault(cluster, (part, row))
    texts = _texts(list(first.values()), documents, redaction)
    return [texts[first[cluster]][1] if first[cluster] in texts else "" for cluster in clusters]


def _languages(counts: dict[str, dict[str, int]]) -> dict[str, Any] | None:
    """Documents by language over all sources, and the most frequent languages of each source."""
    totals: dict[str, int] = {}
    for languages in counts.values():
        for name, documents in languages.items():
            totals[name] = totals.get(name, 0) + documents
    if not totals:
        return None

    def ranked(languages: dict[str, int], most: int) -> list[dict[str, Any]]:
        whole = sum(languages.values())
        order = sorted(languages.items(), key=lambda item: (-item[1], item[0]))[:most]
        return [{"language": name, "documents": n, "share": _share(n, whole)} for name, n in order]

    return {
        "rows": ranked(totals, MAX_LANGUAGES),
        "count": len(totals),
        "sources": [
            {"source": source, "rows": ranked(languages, 5)} for source, languages in _largest(counts).items()
        ],
    }


def _contamination(
    benchmarks: dict[str, dict[str, int]], tables: Tables, origins: dict[str, str]
) -> dict[str, Any] | None:
    """What was found of each benchmark, and the items that were found with one place of each."""
    if not benchmarks or tables.contamination is None:
        return None
    hits = files.read_parquet(tables.contamination)
    share = pc.divide(hits["ngrams"].cast(pa.float64()), hits["passage_ngrams"].cast(pa.float64()))
    hits = hits.append_column("share", pc.multiply(share, 100.0))
    order = [("benchmark", "ascending"), ("item", "ascending"), ("share", "descending")]
    hits = hits.sort_by([*order, ("part", "ascending"), ("row", "ascending")])
    items: dict[tuple[str, int], dict[str, Any]] = {}
    for row in hits.select(["benchmark", "item", "share", "removed", "part", "row", "source"]).to_pylist():
        place = f"{row['source']}: {origins.get(row['part'], row['part'])}, document {row['row']}"
        entry = {"documents": set(), "removed": False, "share": row["share"], "place": place}
        entry = items.setdefault((row["benchmark"], row["item"]), entry)
        entry["documents"].add((row["part"], row["row"]))
        entry["removed"] |= row["removed"]
    return {
        "benchmarks": [
            {"name": name, **counts, "share": _share(counts["items_found"], counts["items"])}
            for name, counts in benchmarks.items()
        ],
        "count": len(items),
        "items": [
            {"benchmark": name, "item": item, **entry, "documents": len(entry["documents"])}
            for (name, item), entry in list(items.items())[:MAX_ITEMS]
        ],
    }


def _redacted(counts: dict[str, dict[str, int]]) -> dict[str, Any] | None:
    """Replaced spans by source and kind of personal data."""
    kinds = [kind for kind in redact.KINDS if any(kind in row for row in counts.values())]
    rows = [
        {"source": source, "counts": [row.get(kind, 0) for kind in kinds]}
        for source, row in _largest(counts).items()
    ]
    return {"kinds": kinds, "rows": rows} if rows else None


def _cluster_keys(column: pa.Array) -> np.ndarray:
    """A uint64 for each value of a cluster column (whole numbers or fixed-size binary)."""
    if pa.types.is_integer(column.type):
        whole: np.ndarray = column.to_numpy(zero_copy_only=False).astype(np.uint64)
        return whole
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)
    rows = data[column.offset * width : (column.offset + len(column)) * width].reshape(-1, width)
    return np.ascontiguousarray(rows[:, -8:]).view(np.uint64).ravel()


def _quality(sample: pa.Table | None, thresholds: dict[str, list[quality.Limit]]) -> Markup | None:
    if sample is None:
        return None
    if "n_control" in sample.column_names:
        sample = sample.append_column("q_control_fraction", pa.array(quality.control_fraction(sample)))
    columns = {}
    for name in sample.column_names:
        numeric = pa.types.is_floating(sample[name].type) or pa.types.is_integer(sample[name].type)
        if name.startswith(MEASURED) and numeric:
            values = sample[name].drop_null().to_numpy().astype(float)
            values = values[np.isfinite(values)]
            if len(values):
                columns[name] = values
    return Markup(pictures.distributions(columns, thresholds)) if columns else None


def _sources(manifest: dict[str, Any]) -> dict[str, Any]:
    """Documents, tokens and mixture share of each source over the whole version."""
    sources = dict(manifest["sources"])
    order = sorted(sources, key=lambda name: (-sources[name]["tokens"], name))
    others = order[MAX_SOURCES:]
    if others:
        numbers = ("weight", "documents", "heldout_documents", "text_bytes", "tokens")
        left = [sources.pop(name) for name in others]
        sources[_more(others)] = {field: sum(fields.get(field) or 0 for fields in left) for field in numbers}
        order = [*order[:MAX_SOURCES], _more(others)]
    tokens = sum(fields["tokens"] for fields in sources.values())
    weighted = any(fields["weight"] for fields in sources.values())
    weights = {
        name: (fields["weight"] or 0.0) if weighted else fields["tokens"] for name, fields in sources.items()
    }
    whole = sum(weights.values())
    rows = [
        {
            "source": name,
            "kind": fields.get("kind"),
            "documents": fields["documents"],
            "heldout": fields.get("heldout_documents", 0),
            "text_bytes": fields["text_bytes"],
            "tokens": fields["tokens"],
            "bytes_per_token": fields["text_bytes"] / fields["tokens"] if fields["tokens"] else None,
            "share": _share(fields["tokens"], tokens),
            "weight": _share(weights[name], whole),
        }
        for name, fields in ((name, sources[name]) for name in order)
    ]
    picture = None
    if rows and weighted:
        picture = Markup(
            pictures.shares(
                [row["source"] for row in rows[:PICTURED]],
                [row["share"] for row in rows[:PICTURED]],
                [row["weight"] for row in rows[:PICTURED]],
            )
        )
    return {"rows": rows, "weighted": weighted, "picture": picture}
