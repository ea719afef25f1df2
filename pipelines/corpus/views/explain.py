"""Why a document is in a corpus version or not, from the tables of the version and its ancestors."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import arrow, files, layout
from base.contents import InputEntry
from base.credentials import hide
from base.damage import MissingError
from base.errors import UserError
from base.manifest import Version, ancestry
from dedup.catalog import INDEX, read_summary
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.stages.survivors import DOCUMENTS, document_texts
from pipelines.corpus.text import quality, redact
from pipelines.corpus.text.settings import QualityConfig, RedactConfig

DIFF_CHARACTERS = 200_000
"""Longer texts are compared up to here; difflib takes quadratic time in the worst case."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a version decided about a document."""

    version: Version
    place: str
    """Name of the dropped table (quality, duplicates, …), or path of the shard that holds the document."""
    kept: bool
    row: dict[str, Any]
    """Its row of that table or of the shard's origins."""


def explain(version: Version, document: str, diff_lines: int = 40) -> list[str]:
    """Lines that tell what became of a document of `version` or one of its ancestors, and why.

    document: 32 hex digits, or `file:record` with the URL or the end of the URL of an input file and the
    0-based record. A diff against the kept document has at most `diff_lines` lines.

    Raises UserError if there is no such document.
    """
    chain = ancestry(version)
    if re.fullmatch(r"[0-9a-fA-F]{32}", document):
        identifier = pa.scalar(bytes.fromhex(document), pa.binary(16))
        decision = _decision(chain, lambda table: pc.equal(table["document_id"], identifier), ["document_id"])
        if decision is None:
            raise UserError(f"{version.name} and its ancestors hold no document {document.lower()}")
    elif re.fullmatch(r".+:[0-9]+", document):
        file, record = document.rsplit(":", 1)
        found = _by_record(chain, file, int(record))
        if isinstance(found, list):
            return found
        decision = found
    else:
        raise UserError(
            f"document {document!r} is neither an id of 32 hexadecimal digits nor file:record, such as "
            "part-00.jsonl.zst:17"
        )
    earlier = _kept_before(chain, decision)
    if earlier is None:
        return _describe(chain, decision, diff_lines)
    return [
        *_describe(chain, earlier, diff_lines),
        f"read again in {decision.version.name} from {_origin(chain, decision.row)}, and known already",
    ]


def _kept_before(chain: list[Version], decision: Decision) -> Decision | None:
    """The decision of an older version that holds a document which a newer one, reading it again, left out.

    A file that grew, was renamed or copied is read again as a whole, and most of it is known.
    """
    version = decision.row.get("kept_version")
    if decision.kept or version in (None, decision.version.name):
        return None
    identifier = pa.scalar(decision.row["document_id"], pa.binary(16))
    older = chain[chain.index(decision.version) + 1 :]
    found = _decision(older, lambda table: pc.equal(table["document_id"], identifier), ["document_id"])
    if found is None or found.kept:
        return found
    return _kept_before(chain, found) or (
        found if decision.row["kept_id"] == found.row["document_id"] else None
    )


def _scan(version: Version, path: str, columns: list[str], condition: Any) -> Iterator[dict[str, Any]]:
    """The rows of a table of a version that meet a condition, reading a row group at a time; none without it.

    condition: from a table with `columns` to a boolean array.
    """
    return _scan_file(version.file(path), version.manifest.files.get(path), columns, condition)


def _scan_file(url: str, digest: str | None, columns: list[str], condition: Any) -> Iterator[dict[str, Any]]:
    """As _scan, of a file with a digest."""
    try:
        files.check_digest(url, digest)
        with files.open_parquet(url) as parquet:
            if not set(columns) <= set(parquet.schema_arrow.names):
                return
            for group in range(parquet.num_row_groups):
                hits = np.flatnonzero(condition(parquet.read_row_group(group, columns)).to_numpy())
                if len(hits):
                    yield from parquet.read_row_group(group).take(pa.array(hits)).to_pylist()
    except MissingError:
        return


def _decision(chain: list[Version], condition: Any, columns: list[str]) -> Decision | None:
    """The decision about the first document that meets the condition, newest version first."""
    for version in chain:
        for url in files.list_files(version.file(layout.dropped("*"))):
            for row in _scan(
                version, layout.dropped(layout.name_of(url).removesuffix(".parquet")), columns, condition
            ):
                stage = layout.name_of(url).removesuffix(".parquet")
                return Decision(version=version, place=stage, kept=False, row=row)
        for entry in sorted(version.own_shards, key=lambda entry: entry.origins):
            url = version.below_versions(entry.origins)
            for row in _scan_file(url, entry.origins_digest, columns, condition):
                row = {"source": entry.source, **row}
                return Decision(version=version, place=entry.path, kept=True, row=row)
    return None


def _by_record(chain: list[Version], file: str, record: int) -> Decision | list[str]:
    """The decision about a record, or what is known of one that never became a document."""
    file = hide(file)
    inputs = [
        item for item in _inputs(chain) if item.file == file or item.file.endswith("/" + file.lstrip("/"))
    ]
    names = sorted({item.file for item in inputs})
    if not names:
        raise UserError(f"no input file of {chain[0].name} ends in {file}")
    if len(names) > 1:
        raise UserError(f"{file} may be {' or '.join(names)}; give more of the path")
    for item in inputs:
        documents = _documents(chain, item.part)
        row = _row_of_record(documents, record) if documents else None
        if row is None:
            continue
        decision = _decision(
            chain,
            lambda table, part=item.part, row=row: pc.and_(
                pc.equal(table["part"].cast(pa.string()), part), pc.equal(table["row"], row)
            ),
            ["part", "row"],
        )
        if decision is not None:
            return decision
    for version in chain:
        for reject in _scan(
            version,
            layout.REJECTS,
            ["file", "record"],
            lambda table: pc.and_(
                pc.equal(table["file"].cast(pa.string()), names[0]), pc.equal(table["record"], record)
            ),
        ):
            return [
                f"record {record} of {names[0]} never became a document: {reject['reason']}"
                f" ({reject['detail']}; {reject['bytes']:,} bytes), decided in {version.name}",
                f"  starts with {reject['sample']!r}",
            ]
    raise UserError(
        f"record {record} of {names[0]} is no document: the file has fewer records, or the record was "
        "rejected while reading and is not among the rejects that are kept (corpus.keep_rejects)"
    )


def _documents(chain: list[Version], part: str) -> str | None:
    """URL of a part's documents file, if it is there."""
    for folder in chain[0].indexes:
        if files.exists(files.join(folder, INDEX)):
            for indexed in read_summary(folder).parts:
                if indexed.name == part and files.exists(indexed.documents):
                    return indexed.documents
    pattern = layout.part_path("documents", "*", part, "arrow")
    found = files.list_files(chain[0].below_corpus(pattern))
    return found[-1] if found else None


def _inputs(chain: list[Version]) -> Iterator[InputEntry]:
    """What the versions were made of, the newest first: what was read last is what a file holds now."""
    for version, parent in zip(chain, [*chain[1:], None], strict=True):
        known = {item.part for item in parent.inputs} if parent else set()
        yield from (item for item in version.inputs if item.part not in known)


def _file_of(chain: list[Version]) -> dict[str, str]:
    """The input file of each part."""
    return {item.part: item.file for item in chain[0].inputs}


def _row_of_record(url: str, record: int) -> int | None:
    [records] = arrow.open_columns(url, pa.schema([DOCUMENTS.field("record")]))
    first = 0
    for number in range(records.num_record_batches):
        batch = records.get_batch(number)
        hits = np.flatnonzero(batch.column("record").to_numpy() == record)
        if len(hits):
            return first + int(hits[0])
        first += batch.num_rows
    return None


def _text(chain: list[Version], part: str, row: int) -> str | None:
    """The cleaned text of a document, or None if its documents file is gone."""
    url = _documents(chain, part)
    if url is None:
        return None
    for _, table in document_texts(url, np.array([row])):
        return str(table["text"][0].as_py())
    return None


def _describe(chain: list[Version], decision: Decision, diff_lines: int) -> list[str]:
    row = decision.row
    size = row.get("bytes")
    lines = [
        f"document {row['document_id'].hex()}  source {row['source']}"
        + (f"  {size:,} bytes" if size is not None else ""),
        f"  from {_origin(chain, row)}",
    ]
    lines += _passages(decision)
    lines += _unjudged(chain, decision)
    if decision.kept:
        lines.append(f"kept in {decision.version.name}, in {decision.place}")
        return lines + _cluster(chain, row["document_id"], row["document_id"])
    if "kept_id" not in row:
        value = row.get("value")
        measured = f", measured {value:g}" if value is not None else ""
        lines.append(f"dropped in {decision.version.name}, stage {decision.place}: {row['reason']}{measured}")
        return lines
    kept_version = row["kept_version"] or decision.version.name
    lines.append(
        f"dropped in {decision.version.name} as {_relation(row)} of document {row['kept_id'].hex()}"
        f" of {kept_version}, similarity {row['similarity']:.4f}"
    )
    lines += _cluster(chain, row["kept_id"], row["document_id"])
    identifier = pa.scalar(row["kept_id"], pa.binary(16))
    kept = _decision(chain, lambda table: pc.equal(table["document_id"], identifier), ["document_id"])
    if kept is None or not kept.kept:
        where = f" in stage {kept.place}: {kept.row['reason']}" if kept else ""
        lines.append(f"the document it duplicates was dropped later{where}")
    else:
        lines.append(f"the kept document is from {_origin(chain, kept.row)}, in {kept.place}")
    if kept is not None:
        lines += _diff(
            _text(chain, kept.row["part"], kept.row["row"]),
            _text(chain, row["part"], row["row"]),
            diff_lines,
        )
    return lines


def _relation(row: dict[str, Any]) -> str:
    """What a dropped document is of the kept one; its text may equal that of a near-duplicate of it."""
    twice = row["reason"] == "exact_duplicate" and row["similarity"] < 1
    return "exact_duplicate of a near_duplicate" if twice else str(row["reason"])


def _passages(decision: Decision) -> list[str]:
    """The benchmark passages that were found in the document."""
    identifier = pa.scalar(decision.row["document_id"], pa.binary(16))
    found = _scan(
        decision.version,
        layout.CONTAMINATION,
        ["document_id"],
        lambda table: pc.equal(table["document_id"], identifier),
    )
    return [
        f"  holds {row['ngrams']} of {row['passage_ngrams']} n-grams of {row['benchmark']}, item"
        f" {row['item']} ({row['field']}), at bytes {row['start']:,} to {row['end']:,}"
        for row in found
    ]


def _unjudged(chain: list[Version], decision: Decision) -> list[str]:
    """The rules that the document breaks but that cannot judge its script, if its measurements are there."""
    manifest, part, row = decision.version.manifest, decision.row["part"], decision.row["row"]
    pattern = layout.part_path("attributes", "*", part, "parquet")
    found = files.list_files(chain[0].below_corpus(pattern))
    names = {item.part: item.source for item in decision.version.inputs}
    if not found:
        return []
    try:
        configured = {source["name"]: source for source in manifest.config["sources"]}
        source = SourceConfig.model_validate(configured[names[part]])
        policy = source.model_copy(update={"kind": source.kind_of(decision.row["source"])})
        settings = QualityConfig.model_validate(manifest.config["quality"])
        rules = quality.count_unjudged(files.read_parquet(found[-1]).slice(row, 1), policy, settings)
    except (KeyError, TypeError, ValueError, AttributeError):  # settings or measurements of another release
        return []
    if not rules:
        return []
    return [f"  not judged by {', '.join(rules)}: text in its script has no spaces between words"]


def _origin(chain: list[Version], row: dict[str, Any]) -> str:
    """`file, record n` of a row that has part and row, and file and record perhaps."""
    part, record = row.get("part"), row.get("record")
    file = row.get("file") or _file_of(chain).get(str(part), f"part {part}")
    url = _documents(chain, part) if record is None and part is not None else None
    if url is not None:
        for _, table in document_texts(url, np.array([row["row"]])):
            record = table["record"][0].as_py()
    return file if record is None else f"{file}, record {record}"


def _cluster(chain: list[Version], kept: bytes, document: bytes) -> list[str]:
    """The documents that were dropped as duplicates of `kept`, most similar first."""
    identifier = pa.scalar(kept, pa.binary(16))
    members = []
    for version in chain:
        rows = _scan(
            version,
            layout.dropped("duplicates"),
            ["kept_id"],
            lambda table: pc.equal(table["kept_id"], identifier),
        )
        members += [(row, version.name) for row in rows]
    if not members:
        return ["no document of these versions was dropped as a duplicate of it"]
    members.sort(key=lambda member: (-member[0]["similarity"], member[0]["document_id"]))
    lines = [f"cluster {kept.hex()}: the kept document and {len(members)} dropped, by similarity with it"]
    inputs = _file_of(chain)
    shown = members[:20]
    for row, name in shown:
        mark = "  (this document)" if row["document_id"] == document else ""
        lines.append(
            f"  {row['similarity']:.4f}  {row['document_id'].hex()}  {row['reason']}  {row['source']}  "
            f"{name}  {inputs.get(row['part'], row['part'])}{mark}"
        )
    if len(members) > len(shown):
        lines.append(f"  and {len(members) - len(shown):,} more")
    return lines


def _diff(kept: str | None, text: str | None, limit: int) -> list[str]:
    """A unified diff of two texts by line and sentence, `limit` lines of it, without personal data."""
    if kept is None or text is None:
        return ["no diff: the documents file of one of them is gone"]
    if " ".join(kept.split()) == " ".join(text.split()):
        return ["no diff: the two texts are the same but for white space"]
    sides = pa.array([kept, text], pa.large_string())
    shown = redact.excerpts(sides, DIFF_CHARACTERS, RedactConfig()).to_pylist()
    one, other = (re.split(r"\n|(?<=[.!?;]) +", side) for side in shown)
    lines = list(difflib.unified_diff(one, other, "kept", "this document", n=1, lineterm=""))
    if not lines:
        return [f"no diff: the first {DIFF_CHARACTERS:,} characters are the same but for personal data"]
    rest = [f"and {len(lines) - limit:,} more lines of the diff"] if len(lines) > limit else []
    return lines[:limit] + rest
