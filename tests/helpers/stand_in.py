"""What stands in for ../shared/data: the same folders and the same kinds of faults, of generated text.

Files, truth and counts of what is injected are laid out as ../shared/data/README.md says, so that what tests
assert about both holds for both; the documents are fewer and shorter. The same bytes come out every time.
"""

import collections
import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from pipelines.corpus.text.tokenizer import train

ENGLISH_WORDS = """
the of and to in is that it was for on are with as his they be at one have this from or had by hot word
but what some we can out other were all there when up use your how said an each she which do their time
if will way about many then them write would like so these her long make thing see him two has look more
day could go come did number sound no most people my over know water than call first who may down side
been now find any new work part take get place made live where after back little only round man year came
show every good me give our under name very through just form sentence great think say help low line
differ turn cause much mean before move right boy old too same tell does set three want air well also
play small end put home read hand port large spell add even land here must big high such follow act why
ask men change went light kind off need house picture try us again animal point mother world near build
self earth father head stand own page should country found answer school grow study still learn plant
cover food sun four between state keep eye never last let thought city tree cross farm hard start might
story saw far sea draw left late run while press close night real life few north open seem together next
white children begin got walk example ease paper group always music those both mark often letter until
mile river car feet care second book carry took science eat room friend began idea fish mountain stop
once base hear horse cut sure watch color face wood main enough plain girl usual young ready above ever
red list though feel talk bird soon body dog family direct pose leave song measure door
"""
ENGLISH = ENGLISH_WORDS.split()
GERMAN_WORDS = """
der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er
hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor
zur bis mehr durch man sein wurde sei hatte kann gegen vom können schon wenn habe seine mark ihre dann
unter wir soll ich eines jahr zwei jahren diese dieser wieder keine uhr seiner worden will zwischen immer
millionen was sagte gibt alle seit muss wurden beim doch jetzt drei neue damit bereits da ab ohne sondern
selbst ersten nun etwa heute ihren weil ihm seien menschen deutschland anderen rund ihn ende jedoch zeit
sollen ins seinen wollen sehr stadt hier sollte ganz recht gesetz behörde antrag verordnung absatz satz
paragraph frist zuständig landes bundes gericht person unternehmen pflicht anlage gebühr betrieb
"""
GERMAN = GERMAN_WORDS.split()
SAMPLE = {
    "arxiv": "ArXiv",
    "de_gesetze": "DE-Gesetze",
    "dm_mathematics": "DM Mathematics",
    "freelaw": "FreeLaw",
    "github": "Github",
    "gutenberg_pg_19": "Gutenberg (PG-19)",
    "man_pages": "Man Pages",
    "peps": "PEPs",
    "rust_rfcs": "Rust RFCs",
    "stm_papers": "STM Papers",
    "ubuntu_irc": "Ubuntu IRC",
    "us_presidential_speeches": "US Presidential Speeches",
}
"""Files of pile_sample and the names of their sources."""
SHAREALIKE = ("arxiv", "debian_docs", "man_pages", "perldoc", "stackexchange", "wikipedia_en")
DOCUMENTS = 120
"""Documents of a file of pile_sample."""
DAMAGED = {"12-truncated.jsonl.zst": 31, "13-corrupt.jsonl.zst": 27}
"""Lines that can be recovered of the 46 of a damaged file."""
SIBLINGS = 3
"""Items of a benchmark that share a sentence with another, which is injected."""


@dataclass(kw_only=True)
class Line:
    """A line of pile_messy and what the truth says of it; `family` joins copies of one document."""

    content: bytes
    kind: str
    truth: dict[str, Any] = field(default_factory=dict)
    text: str | None = None
    family: int | None = None
    item: dict[str, Any] | None = None


def write(folder: Path) -> None:
    """Write pile_sample, pile_sample_sharealike, pile_messy with its truth, tokenizer and benchmarks."""
    choose = random.Random(11)
    sample = {name: [document(choose, source) for _ in range(DOCUMENTS)] for name, source in SAMPLE.items()}
    for name, texts in sample.items():
        put(folder / "pile_sample" / f"{name}-a-00.jsonl.zst", [record(text, SAMPLE[name]) for text in texts])
    for name in SHAREALIKE:
        texts = [document(choose, name) for _ in range(30)]
        put(folder / "pile_sample_sharealike" / f"{name}-b-00.jsonl.zst", [record(t, name) for t in texts])
    (folder / "tokenizer").mkdir()
    texts = [text for name in sorted(sample) for text in sample[name][:40]]
    (folder / "tokenizer" / "tokenizer.json").write_bytes(tokenizer(texts))
    items = write_benchmarks(choose, folder / "benchmarks")
    write_messy(choose, folder / "pile_messy", sample, items)


def sentence(choose: random.Random, words: list[str], least: int = 6) -> str:
    chosen = choose.choices(words, k=choose.randrange(least, least + 12))
    return " ".join(chosen).capitalize() + "."


def document(choose: random.Random, source: str) -> str:
    """A text of a few paragraphs, in German for a source of laws in German."""
    words = GERMAN if source == "DE-Gesetze" else ENGLISH
    return "\n\n".join(
        " ".join(sentence(choose, words) for _ in range(choose.randrange(2, 6)))
        for _ in range(choose.randrange(2, 6))
    )


def record(text: str, source: str) -> bytes:
    return json.dumps({"text": text, "meta": {"pile_set_name": source}}).encode()


def put(path: Path, lines: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.compress(b"".join(line + b"\n" for line in lines)))


def tokenizer(texts: list[str]) -> bytes:
    """A small tokenizer with the added tokens of GPT-NeoX-20B's: padding, and runs of spaces."""
    content = json.loads(train(texts, 2000, "<|endoftext|>"))
    special = {"single_word": False, "lstrip": False, "rstrip": False}
    spaces = [(" " * count, False, True) for count in range(24, 1, -1)]
    for token, is_special, normalized in [("<|padding|>", True, False), *spaces]:
        number = len(content["model"]["vocab"]) + len(content["added_tokens"]) - 1
        content["added_tokens"].append(
            {"id": number, "content": token, "special": is_special, "normalized": normalized, **special}
        )
    return json.dumps(content).encode()


def write_benchmarks(choose: random.Random, folder: Path) -> list[dict[str, Any]]:
    """Write both benchmarks; the items, as the truth names them. One of HumanEval has siblings."""
    questions = [" ".join(sentence(choose, ENGLISH, 14) for _ in range(3)) for _ in range(120)]
    (folder / "gsm8k").mkdir(parents=True)
    (folder / "gsm8k" / "test.jsonl").write_text(
        "".join(
            json.dumps({"question": question, "answer": f"It is {number}.\n#### {number}"}) + "\n"
            for number, question in enumerate(questions)
        )
    )
    shared = sentence(choose, ENGLISH, 20)
    prompts = [
        f'def function_{number}(values):\n    """{sentence(choose, ENGLISH, 20)}'
        f'{" " + shared if number <= SIBLINGS else ""}\n    """\n'
        for number in range(60)
    ]
    (folder / "human_eval").mkdir()
    rows = [
        {"task_id": f"HumanEval/{number}", "prompt": prompt, "canonical_solution": "    return values\n"}
        | {"test": "def check(candidate):\n    pass\n", "entry_point": f"function_{number}"}
        for number, prompt in enumerate(prompts)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "human_eval" / "HumanEval.jsonl.gz").write_bytes(gzip.compress(content, mtime=0))
    found = [{"benchmark": "gsm8k_test", "index": n, "item": q} for n, q in enumerate(questions)]
    others = [n for n in range(len(prompts)) if not 1 <= n <= SIBLINGS]
    return found[::4] + [{"benchmark": "human_eval", "index": n, "item": prompts[n]} for n in others[:10]]


def write_messy(
    choose: random.Random, folder: Path, sample: dict[str, list[str]], items: list[dict[str, Any]]
) -> None:
    """Write pile_messy and its truth, of the texts of pile_sample."""
    base = [(text, SAMPLE[name]) for name, texts in sample.items() for text in texts]
    choose.shuffle(base)
    damaged = {name: [base.pop() for _ in range(46)] for name in DAMAGED}
    lines = faults(choose, base) + contaminated(base, items) + copies(choose, base)
    lines += [valid(text, source, "base", family=len(base) + n) for n, (text, source) in enumerate(base)]
    lines += [valid(f"Short number {number}.", "Github", "base") for number in range(5)]
    choose.shuffle(lines)
    folder.mkdir()
    placed: dict[tuple[str, int], Line] = {}
    for number in range(12):
        name = f"{number:02d}.jsonl.zst"
        own = lines[number::12]
        if number == 3:
            for at in (5, 15, 25, 35):
                own.insert(at, Line(content=b"", kind="blank_line"))
        placed |= {(name, at): line for at, line in enumerate(own)}
        (folder / name).write_bytes(framed(number, [line.content for line in own]))
    for name, texts in damaged.items():
        own = [valid(text, source, "base_in_damaged_file") for text, source in texts]
        for at, line in enumerate(own):
            line.truth["recoverable"] = at < DAMAGED[name]
        placed |= {(name, at): line for at, line in enumerate(own)}
        (folder / name).write_bytes(spoiled(name, [line.content for line in own]))
    (folder / "14-empty.jsonl.zst").write_bytes(zstandard.compress(b""))
    write_truth(folder / "truth", placed)


def valid(text: str, source: str | None, kind: str, **more: Any) -> Line:
    """A line that can be read."""
    content = json.dumps({"text": text}).encode() if source is None else record(text, source)
    truth = {"pile_set_name": source, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return Line(content=content, kind=kind, truth=truth | {"chars": len(text)}, text=text, **more)


def faults(choose: random.Random, base: list[tuple[str, str]]) -> list[Line]:
    """Lines that are no documents, and documents whose text is damaged or no prose; they leave `base`."""
    lines = [Line(content=record(*base.pop())[:-30], kind="invalid_json") for _ in range(27)]
    for _ in range(5):
        latin1 = record(base.pop()[0], "FreeLaw").replace(b" the ", b" caf\xe9 ", 1)
        latin1 = latin1 if b"\xe9" in latin1 else latin1.replace(b" ", b" \xe9", 3)
        lines.append(Line(content=latin1, kind="raw_latin1_bytes"))
    for _ in range(3):
        alone = record("@" + base.pop()[0], "Github").replace(b"@", b"\\ud83d ", 1)
        lines.append(Line(content=alone, kind="lone_surrogate_escape"))
    wrong: list[Any] = [{"content": n} for n in range(6)] + [{"text": 12}, {"text": ["a list"]}]
    lines += [Line(content=json.dumps(value).encode(), kind="valid_json_wrong_schema") for value in wrong]
    lines += [valid(base.pop()[0], None, "valid_no_or_odd_meta") for _ in range(5)]
    lines += [valid("", "Man Pages", "empty_text") for _ in range(13)]
    lines += [valid(" \n\t"[: 1 + n % 3], "Man Pages", "whitespace_text") for n in range(5)]
    for _ in range(13):
        text, source = base.pop()
        cut = text.index(" ", 60)
        broken = f"{text[:cut]} größer, schöner, häufiger, möglich é".encode().decode("cp1252") + text[cut:]
        lines.append(valid(broken, source, "mojibake_utf8_as_cp1252"))
    for damage, kind, count in (("\0", "nul_in_text", 8), ("\u200b", "zero_width_control_fffd", 3)):
        for _ in range(count):
            text, source = base.pop()
            lines.append(valid(text.replace(" ", f" {damage}", 3), source, kind))
    for number in range(5):
        noise = "".join(choose.choices("\x01\x02\x03\x04\x05\x06\x0e\x0f\x10\x11abc", k=400 + number))
        lines.append(valid(noise, "Rust RFCs", "binary_as_text"))
    for number in range(8):
        lines.append(valid(f"buy number {number} now at the best price\n" * 60, "PEPs", "repetitive_spam"))
    long = "\n".join(sentence(choose, ENGLISH) for _ in range(3000))
    return [*lines, valid(long, "Gutenberg (PG-19)", "very_long_doc")]


def contaminated(base: list[tuple[str, str]], items: list[dict[str, Any]]) -> list[Line]:
    """Documents with an item of a benchmark in the middle; they leave `base`."""
    lines = []
    for item in items:
        text, source = base.pop()
        cut = text.index(" ", len(text) // 2)
        whole = f"{text[:cut]}\n\n{item['item']}\n\n{text[cut + 1 :]}"
        lines.append(valid(whole, source, "contaminated", item=item))
    return lines


def copies(choose: random.Random, base: list[tuple[str, str]]) -> list[Line]:
    """Copies of documents of `base`, the same or edited; an original leaves `base` and is `base+source`."""
    lines = []
    for family in range(143):
        text, source = base.pop()
        lines.append(valid(text, source, "base+source", family=family))
        if family < 40:
            lines += [valid(text, source, "exact_dup", family=family) for _ in range(2 + (family < 3))]
        else:
            edited = edit(choose, text, family)
            lines.append(valid(edited, source, "near_dup", family=family))
    for family in range(36):
        text = next(line.text or "" for line in lines if line.family == 40 + family)
        edited = f"Page {family}\n\n{text}\n\nEnd of {family}"
        lines.append(valid(edited, "Github", "near_dup", family=40 + family))
    return lines


def edit(choose: random.Random, text: str, number: int) -> str:
    """A text with some words changed, white space changed, a part cut off, or a header."""
    words = text.split(" ")
    way = number % 5
    if way == 0:
        words[len(words) // 2] = "changed"
    elif way == 1:
        for at in choose.sample(range(len(words)), max(1, len(words) // 12)):
            words[at] = "other"
    elif way == 2:
        return text.replace("\n\n", "\n")
    elif way == 3:
        words = words[: len(words) // 2]
    else:
        words = [f"Copy of {number}:", *words]
    return " ".join(words)


def framed(number: int, lines: list[bytes]) -> bytes:
    """A file of these lines, in one of the ways that files differ in."""
    content = b"\n".join(lines) + b"\n"
    if number == 4:
        content = b"\xef\xbb\xbf" + content
    elif number == 5:
        content = content.replace(b"\n", b"\r\n")
    elif number == 6:
        content = content[:-1]
    elif number == 7:
        step = len(content) // 5 + 1
        frames = [zstandard.compress(content[at : at + step]) for at in range(0, len(content), step)]
        skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
        return b"".join([*frames[:2], skippable, *frames[2:]])
    elif number == 8:
        stream = zstandard.ZstdCompressor().compressobj()
        return stream.compress(content) + stream.flush()
    return zstandard.compress(content)


def spoiled(name: str, lines: list[bytes]) -> bytes:
    """A file of two blocks, the second of which cannot be read: cut off, or of a type that none has."""
    stream = zstandard.ZstdCompressor().compressobj()
    good = DAMAGED[name]
    # Decompressors lose up to 4096 bytes before a damaged place: those are of the next line, and blank.
    start = stream.compress(b"".join(line + b"\n" for line in lines[:good]) + b" " * 9000)
    start += stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    rest = stream.compress(b"".join(line + b"\n" for line in lines[good:])) + stream.flush()
    if "truncated" in name:
        return start + rest[: len(rest) // 2]
    return start + bytes([rest[0] | 6]) + rest[1:]


def write_truth(folder: Path, placed: dict[tuple[str, int], Line]) -> None:
    """Write what each line of pile_messy is, and which are the same or similar."""
    folder.mkdir()

    def rows(name: str, values: Iterable[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(value) + "\n" for value in values))

    rows(
        "lines.jsonl",
        (
            {"file": file, "line": number, "kind": line.kind, **line.truth}
            for (file, number), line in placed.items()
        ),
    )
    rows(
        "contamination.jsonl",
        ({**line.item, "doc": mention(place)} for place, line in placed.items() if line.item is not None),
    )
    same: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    for place, line in placed.items():
        if line.text is not None and line.kind != "base_in_damaged_file":
            same[line.text].append(place)
    rows(
        "exact_groups.jsonl",
        (
            {"size": len(places), "empty": not text.strip(), "docs": [mention(place) for place in places]}
            for text, places in same.items()
            if len(places) > 1
        ),
    )
    rows("all_pairs_j30.jsonl", pairs(same, placed))


def mention(place: tuple[str, int]) -> dict[str, Any]:
    return {"file": place[0], "line": place[1]}


def pairs(
    same: dict[str, list[tuple[str, int]]], placed: dict[tuple[str, int], Line]
) -> Iterable[dict[str, Any]]:
    """Pairs of distinct texts of one family whose sets of word 5-grams have a Jaccard index of 0.3 on."""
    families: dict[int, list[str]] = collections.defaultdict(list)
    for text, places in same.items():
        for family in {placed[place].family for place in places}:
            if family is not None:
                families[family].append(text)
    for texts in families.values():
        sets = {text: shingles(text) for text in texts}
        for at, one in enumerate(texts):
            for other in texts[at + 1 :]:
                similarity = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
                if similarity >= 0.3:
                    yield {
                        "j_word5": round(similarity, 5),
                        "a": [mention(place) for place in same[one]],
                        "b": [mention(place) for place in same[other]],
                        "same_injected_family": True,
                    }


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}
