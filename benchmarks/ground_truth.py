"""A build of the three sample folders with everything on, against the ground truth that lies beside them.

    python -m benchmarks.ground_truth [--data ../shared/data] [--storage FOLDER]

The build has pile.yaml's kinds of text, languages, exact, near-duplicate, line and span deduplication,
decontamination against GSM8K and HumanEval, redaction and the GPT-NeoX tokenizer. What it made of each record
is then compared with `pile_messy/truth`, which knows what was put into the folder; Jaccard similarities and
equal texts are counted again here, by Python sets over all texts. Every difference is listed with its
document and the reason, found out from the measured columns; one without a reason makes the command fail. The
result goes to results/ground_truth.json and, to be read, to docs/explanation/ground-truth.md.
"""

import argparse
import gzip
import json
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from base.manifest import Version
from benchmarks.dedup_inputs import DATA, ROOT, circumstances, record
from pipelines.config import Config, load
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.versions import commands as prepare
from pipelines.runtime.executor import OnRay

FOLDERS = ("pile_messy", "pile_sample", "pile_sample_sharealike")
LINES, SPANS = {"min_documents": 10}, 100
THRESHOLD = 0.8

Place = tuple[str, str, int]
"""Folder, file name and 0-based line of a record."""

FATES: dict[str, set[str]] = {
    "invalid_json": {"invalid_json"},
    "raw_latin1_bytes": {"invalid_utf8"},
    "lone_surrogate_escape": {"lone_surrogate"},
    "valid_json_wrong_schema": {"missing_text", "text_not_string"},
    "empty_text": {"empty_text"},
    "whitespace_text": {"empty_text"},
    "blank_line": {"no record"},
    "binary_as_text": {"quality"},
    "repetitive_spam": {"quality"},
    "contaminated": {"contaminated"},
    "base_in_damaged_file": {"kept", "duplicate", "truncated_file", "corrupt_file", "no record"},
}
"""What should become of each kind of line; all others are good documents, kept or somebody's duplicate."""


@dataclass
class Found:
    """What a build made of every record."""

    version: Version
    texts: dict[Place, str] = field(default_factory=dict)
    """Cleaned texts of all documents."""
    hashes: dict[Place, bytes] = field(default_factory=dict)
    """Hashes of the texts as deduplication compares them."""
    bands: dict[Place, list[int]] = field(default_factory=dict)
    places: dict[tuple[str, int], Place] = field(default_factory=dict)
    """By part and row."""
    ids: dict[bytes, Place] = field(default_factory=dict)
    dropped: dict[Place, dict[str, Any]] = field(default_factory=dict)
    """Row of the table that a document was dropped in."""
    rejects: dict[Place, str] = field(default_factory=dict)
    same: dict[bytes, list[Place]] = field(default_factory=lambda: defaultdict(list))
    """Places of equal text."""

    def fate(self, place: Place) -> str:
        """What became of a record."""
        if place in self.rejects:
            return self.rejects[place]
        if place not in self.texts:
            return "no record"
        row = self.dropped.get(place)
        if row is None:
            return "kept"
        reason = str(row["reason"])
        return "duplicate" if reason.endswith("_duplicate") else "quality" if "." in reason else reason

    def staying(self, place: Place) -> list[Place]:
        """The documents that stay of those with this text."""
        return [other for other in self.same[self.hashes[place]] if other not in self.dropped]


def build(data: Path, storage: str) -> Version:
    """The corpus version, made now or found."""
    import ray

    from jobs.progress import StageProgress
    from pipelines.runtime.cluster import start_local

    benchmarks = [
        {"name": "gsm8k_test", "urls": [f"{data}/benchmarks/gsm8k/test.jsonl"]},
        {"name": "human_eval", "urls": [f"{data}/benchmarks/human_eval/HumanEval.jsonl.gz"]},
    ]
    overrides = [
        f"storage={storage}",
        "mixture={}",
        f"sources.0.urls={json.dumps([f'{data}/{folder}/*.jsonl.zst' for folder in FOLDERS])}",
        f"tokenize.tokenizer={data}/tokenizer/tokenizer.json",
        f"decontaminate.benchmarks={json.dumps(benchmarks)}",
        f"dedup.lines={json.dumps(LINES)}",
        f"dedup.span_tokens={SPANS}",
    ]
    config: Config = load(str(ROOT / "configs" / "pile.yaml"), overrides)
    start_local(2)
    progress = StageProgress()
    try:
        with prepare.claimed(config, "benchmark") as claim:
            inputs, executor = prepare.inputs_of(config), OnRay(workers=2)
            return prepare.prepare(config, inputs, claim=claim, executor=executor, progress=progress).version
    finally:
        progress.close()
        ray.shutdown()


def look(version: Version) -> Found:
    """Read what the build left on storage."""
    found = Found(version)
    corpus = Path(version.url).parents[1]
    for item in version.manifest.to_json()["inputs"]:
        file = Path(item["file"])
        (documents,) = corpus.glob(f"documents/*/{item['part']}.arrow")
        (attributes,) = corpus.glob(f"attributes/*/{item['part']}.parquet")
        table = pa.ipc.open_file(documents).read_all()
        measured = pq.read_table(attributes, columns=["text_hash", "bands"])
        columns = (table["record"], table["text"], measured["text_hash"], measured["bands"])
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        for row, (line, text, key, bands) in enumerate(rows):
            place = (file.parent.name, file.name, line)
            found.places[item["part"], row] = place
            found.texts[place], found.hashes[place], found.bands[place] = text, key, bands
            found.same[key].append(place)
    for name in ("quality", "duplicates", "edits"):
        for row in pq.read_table(f"{version.url}/dropped/{name}.parquet").to_pylist():
            found.dropped[found.places[row["part"], row["row"]]] = row
    for path in Path(version.url).glob("origins/*/*.parquet"):
        for row in pq.read_table(path, columns=["document_id", "part", "row"]).to_pylist():
            found.ids[row["document_id"]] = found.places[row["part"], row["row"]]
    for place, dropped in found.dropped.items():
        found.ids[dropped["document_id"]] = place
    for reject in pq.read_table(f"{version.url}/rejects.parquet").to_pylist():
        file = Path(reject["file"])
        found.rejects[file.parent.name, file.name, reject["record"]] = reject["reason"]
    return found


def name(place: Place) -> str:
    """A place as people read it."""
    return f"{place[0]}/{place[1]}:{place[2]}"


def messy(document: dict[str, Any]) -> Place:
    """The place of a document of the truth."""
    return "pile_messy", document["file"], document["line"]


def shingles(text: str) -> set[tuple[str, ...]]:
    """Word 5-grams as the truth defines them."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two texts."""
    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second)


Check = dict[str, Any]
"""What is compared, its number in the truth and in the build, and each difference with its reason."""


def check(what: str, truth: int, build: int, differences: list[dict[str, Any]]) -> Check:
    """One line of the result."""
    return {"what": what, "truth": truth, "build": build, "differences": differences}


def check_kinds(found: Found, lines: list[dict[str, Any]]) -> list[Check]:
    """Every kind of line goes where it should."""
    checks = []
    kinds: dict[str, list[Place]] = defaultdict(list)
    for line in lines:
        kinds[line["kind"]].append(messy(line))
    for kind, places in sorted(kinds.items()):
        wanted = FATES.get(kind, {"kept", "duplicate"})
        wrong = [place for place in places if found.fate(place) not in wanted]
        differences = [_drop(found, place) for place in wrong]
        fates = Counter(found.fate(place) for place in places)
        line = check(f"lines of kind {kind}", len(places), len(places) - len(wrong), differences)
        checks.append(line | {"became": dict(sorted(fates.items()))})
    return checks


def check_damaged(found: Found, files: dict[str, str]) -> list[Check]:
    """As much is read of a damaged file as can be."""
    checks = []
    for file, note in sorted(files.items()):
        recoverable = re.search(r"(\d+) of \d+ lines recoverable", note)
        if recoverable:
            read = sum(place[1] == file for place in found.texts)
            wrong = (
                [] if read == int(recoverable[1]) else [{"document": file, "build": str(read), "why": None}]
            )
            checks.append(check(f"documents read of {file}", int(recoverable[1]), read, wrong))
    return checks


def _drop(found: Found, place: Place) -> dict[str, Any]:
    """A document that was dropped though nothing was done to it, with the rule and the measured value."""
    row = found.dropped.get(place)
    why = None
    if row is not None and "." in row["reason"]:
        section, rule = row["reason"].split(".")
        limit = found.version.manifest.to_json()["config"]["quality"][section][rule]
        why = f"{row['reason']}: {row['value']:.3g}, the threshold is {limit}"
    elif row is not None and row["stage"] in ("spans", "lines"):
        why = "nothing is left once the spans and lines that also stand in other documents are cut out"
    text = found.texts.get(place, "")
    return {"document": name(place), "build": found.fate(place), "why": why, "text": text[:60]}


def check_repairs(found: Found, lines: list[dict[str, Any]]) -> list[Check]:
    """Texts that were damaged and can be mended equal their originals in pile_sample."""
    checks = []
    for kind in ("mojibake_utf8_as_cp1252", "nul_in_text"):
        places = [messy(line) for line in lines if line["kind"] == kind]
        same = [any(one[0] == "pile_sample" for one in found.same[found.hashes[place]]) for place in places]
        wrong = [place for place, equal in zip(places, same, strict=True) if not equal]
        differences = [{"document": name(place), "build": "not mended", "why": None} for place in wrong]
        checks.append(check(f"{kind}: cleaned, equal to the original", len(places), sum(same), differences))
    return checks


def check_exact(found: Found, groups: list[dict[str, Any]]) -> list[Check]:
    """One document stays of every group of equal texts, the truth's and those of all three folders."""
    ours = [group for group in groups if not group["empty"]]
    differences = []
    for group in ours:
        places = [messy(document) for document in group["docs"]]
        staying = {one for place in places for one in found.staying(place)}
        if len(staying) != 1:
            differences.append(_no_survivor(found, places[0], len(staying)))
    copies: dict[str, list[Place]] = defaultdict(list)
    for place, text in found.texts.items():
        if found.fate(place) != "quality":
            copies[" ".join(text.split())].append(place)
    spare = sum(len(places) - 1 for places in copies.values())
    exact = [place for place, row in found.dropped.items() if row["reason"] == "exact_duplicate"]
    odd = [
        {"document": name(place), "build": "exact_duplicate", "why": None}
        for place in exact
        if len(copies[" ".join(found.texts[place].split())]) < 2
    ]
    return [
        check(
            "groups of identical text with one document left",
            len(ours),
            len(ours) - len(differences),
            differences,
        ),
        check("copies beyond the first, white space apart, in all folders", spare, len(exact), odd),
    ]


def _no_survivor(found: Found, place: Place, staying: int) -> dict[str, Any]:
    """A group of which not one document stays, with the document that took its place."""
    for other in found.same[found.hashes[place]]:
        row = found.dropped.get(other)
        if staying == 0 and row is not None and row["reason"] == "near_duplicate":
            kept = found.ids[row["kept_id"]]
            near = similarity(found.texts[other], found.texts[kept])
            why = f"the last of them is a near duplicate of {name(kept)}, which stays (Jaccard {near:.3f})"
            return {"document": name(place), "build": "none stays", "why": why}
        if staying == 0 and row is not None and row["reason"] == "contaminated":
            return {"document": name(place), "build": "none stays", "why": "contaminated"}
    return {"document": name(place), "build": f"{staying} stay", "why": None}


def check_near(found: Found, pairs: list[dict[str, Any]]) -> list[Check]:
    """Of every pair of similar texts one goes, and no text goes that resembles none that stays."""
    minhash = found.version.manifest.to_json()["config"]["dedup"]["minhash"]
    alike = [pair for pair in pairs if pair["j_word5"] >= THRESHOLD]
    missed = []
    for pair in alike:
        one, other = messy(pair["a"][0]), messy(pair["b"][0])
        if found.hashes[one] != found.hashes[other] and found.staying(one) and found.staying(other):
            near = similarity(found.texts[one], found.texts[other])
            agree = sum(a == b for a, b in zip(found.bands[one], found.bands[other], strict=True))
            why = None
            if near < THRESHOLD:
                why = f"the cleaned texts have Jaccard {near:.3f}"
            elif not agree:
                chance = (1 - near ** minhash["rows"]) ** minhash["bands"]
                why = (
                    f"Jaccard {near:.3f}, but none of the {minhash['bands']} bands of {minhash['rows']} rows "
                    f"agrees; of such pairs MinHash misses {100 * chance:.1f} %"
                )
            missed.append({"document": f"{name(one)} and {name(other)}", "build": "both stay", "why": why})
    near_duplicates = {p: row for p, row in found.dropped.items() if row["reason"] == "near_duplicate"}
    false = [
        {"document": name(place), "build": "near_duplicate", "why": None}
        for place, row in near_duplicates.items()
        if similarity(found.texts[place], found.texts[found.ids[row["kept_id"]]]) < THRESHOLD
    ]
    return [
        check(
            f"pairs with Jaccard ≥ {THRESHOLD}, one of each gone",
            len(alike),
            len(alike) - len(missed),
            missed,
        ),
        check(
            f"near duplicates with Jaccard ≥ {THRESHOLD} to the kept one",
            len(near_duplicates),
            len(near_duplicates) - len(false),
            false,
        ),
    ]


def check_contamination(found: Found, injected: list[dict[str, Any]], data: Path) -> list[Check]:
    """Every benchmark item is found where it was put, and nowhere else."""
    quiz = [json.loads(line) for line in (data / "benchmarks/gsm8k/test.jsonl").read_text().splitlines()]
    with gzip.open(data / "benchmarks/human_eval/HumanEval.jsonl.gz", "rt") as file:
        items = {"gsm8k_test": quiz, "human_eval": [json.loads(line) for line in file]}
    wanted = {(row["benchmark"], row["index"], messy(row["doc"])): row["item"] for row in injected}
    hits = pq.read_table(f"{found.version.url}/contamination.parquet").to_pylist()
    there = {(row["benchmark"], row["item"], found.places[row["part"], row["row"]]): row for row in hits}
    missed = [
        {"document": name(key[2]), "build": f"{key[0]} {key[1]} is not found", "why": None}
        for key in wanted
        if key not in there
    ]
    extra = [
        _shared(key, wanted, items[key[0]][key[1]][row["field"]])
        for key, row in sorted(there.items())
        if key not in wanted
    ]
    gone = {place for place, row in found.dropped.items() if row["reason"] == "contaminated"}
    places = {place for _, _, place in wanted}
    wrong = [
        {"document": name(place), "build": found.fate(place), "why": None} for place in sorted(gone ^ places)
    ]
    return [
        check("benchmark items found where they are", len(wanted), len(wanted) - len(missed), missed),
        check("benchmark items found", len(wanted), len(there), extra),
        check("documents dropped for them", len(places), len(gone), wrong),
    ]


def _shared(
    key: tuple[str, int, Place], wanted: dict[tuple[str, int, Place], str], passage: str
) -> dict[str, Any]:
    """An item that was not put into the document, with the one that was and has an n-gram of its passage."""
    why = None
    for (benchmark, item, place), text in wanted.items():
        shared = ngrams(passage) & ngrams(text) if place == key[2] else None
        if shared:
            why = f"{len(shared)} of its 13-grams stand in {benchmark} {item}, which was put there: " + min(
                shared
            )
    return {"document": name(key[2]), "build": f"{key[0]} {key[1]} is found too", "why": why}


def ngrams(text: str) -> set[str]:
    """Word 13-grams."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[start : start + 13]) for start in range(len(words) - 12)}


def check_natural(found: Found) -> Check:
    """Documents of the other two folders that the quality rules or the cutting of repeats dropped."""
    gone = [
        place
        for place in sorted(found.dropped)
        if place[0] != "pile_messy" and found.fate(place) not in ("kept", "duplicate")
    ]
    return check(
        "documents of the clean folders dropped by rules", 0, len(gone), [_drop(found, p) for p in gone]
    )


def page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    facts, settings = result["circumstances"], result["settings"]
    lines = [
        "# Ground truth",
        "",
        "Written by `python -m benchmarks.ground_truth`; do not edit.",
        "",
        "One build of pile_sample, pile_sample_sharealike and pile_messy with everything on: languages,",
        "exact and near duplicates, lines that stand in "
        f"{settings['dedup.lines']['min_documents']} documents, "
        f"spans of {settings['dedup.span_tokens']} tokens, GSM8K and",
        "HumanEval, personal data, the GPT-NeoX tokenizer; thresholds are the defaults. What became of each",
        "record is compared with `pile_messy/truth`, which lists what was put into that folder.",
        f"Commit {facts['commit']}, {facts['cores']} cores of {facts['processor']}.",
        "",
        f"Documents left after each stage: {', '.join(f'{k} {v:,}' for k, v in result['stages'].items())}.",
        "",
        "| what | truth | build |",
        "|---|---|---|",
        *(f"| {line['what']} | {line['truth']:,} | {line['build']:,} |" for line in result["checks"]),
        "",
        "## Every difference",
        "",
        f"Without an explanation: {result['unexplained']}.",
    ]
    for line in result["checks"]:
        if line["differences"]:
            lines += ["", f"**{line['what'][0].upper()}{line['what'][1:]}**", ""]
            lines += [
                f"- {item['document']}: {item['build']}: {item['why'] or 'not explained'}"
                + (f": `{json.dumps(item['text'], ensure_ascii=False)}`" if item.get("text") else "")
                for item in line["differences"]
            ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Build, compare, print a table and write the result and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--storage", help="folder of the build; absent: one that is removed again")
    options = parser.parse_args()
    truth = options.data.resolve() / "pile_messy" / "truth"

    def read(file: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (truth / f"{file}.jsonl").read_text().splitlines()]

    with tempfile.TemporaryDirectory() as scratch:
        found = look(build(options.data.resolve(), options.storage or scratch))
        lines = read("lines")
        ledger = Ledger.from_json(found.version.manifest.to_json()["ledger"])
        ledger.check()
        steps: list[Callable[[], list[Check]]] = [
            lambda: check_kinds(found, lines),
            lambda: check_damaged(found, json.loads((truth / "summary.json").read_text())["files"]),
            lambda: check_repairs(found, lines),
            lambda: check_exact(found, read("exact_groups")),
            lambda: check_near(found, read("all_pairs_j30")),
            lambda: check_contamination(found, read("contamination"), options.data),
            lambda: [check_natural(found)],
        ]
        checks = [line for step in steps for line in step()]
    print(f"{'':<70}{'truth':>8}{'build':>8}{'differences':>13}")
    for line in checks:
        print(f"{line['what']:<70}{line['truth']:>8}{line['build']:>8}{len(line['differences']):>13}")
    unexplained = [item for line in checks for item in line["differences"] if item["why"] is None]
    result = {
        "circumstances": circumstances(),
        "settings": {"dedup.lines": LINES, "dedup.span_tokens": SPANS},
        "stages": {
            stage: sum(stages[stage].documents_out for stages in ledger.sources.values() if stage in stages)
            for stage in next(iter(ledger.sources.values()))
        },
        "unexplained": len(unexplained),
        "checks": checks,
    }
    record("ground_truth", result)
    (ROOT / "docs" / "explanation" / "ground-truth.md").write_text(page(result))
    sys.exit(bool(unexplained))


if __name__ == "__main__":
    main()
