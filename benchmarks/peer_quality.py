"""datatrove's verdicts on texts, by rule set and by single rule; run by an interpreter with datatrove.

    python peer_quality.py TEXTS.json VERDICTS.json

TEXTS holds a list of strings. VERDICTS gets, for each rule set and for each rule (`set.rule`, named as the
settings of piledriver are), the reason for which datatrove drops each document (null if it stays, "error" if
it fails), and the CPU seconds that the four filters took over all texts.
"""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import split_into_words

GOPHER_QUALITY: dict[str, Any] = {
    "min_words": {"min_doc_words": 50},
    "max_words": {"max_doc_words": 100000},
    "min_mean_word_length": {"min_avg_word_length": 3},
    "max_mean_word_length": {"max_avg_word_length": 10},
    "max_hash_ratio": ("#",),
    "max_ellipsis_ratio": ("...", "…"),
    "max_bullet_line_fraction": {"max_bullet_lines_ratio": 0.9},
    "max_ellipsis_line_fraction": {"max_ellipsis_lines_ratio": 0.3},
    "min_alphabetic_word_fraction": {"max_non_alpha_words_ratio": 0.8},
    "min_stop_words": {"min_stop_words": 2},
}
NO_GOPHER_QUALITY: dict[str, Any] = dict.fromkeys(
    (
        "min_doc_words",
        "max_doc_words",
        "min_avg_word_length",
        "max_avg_word_length",
        "max_symbol_word_ratio",
        "max_bullet_lines_ratio",
        "max_ellipsis_lines_ratio",
        "max_non_alpha_words_ratio",
        "min_stop_words",
    )
)
GOPHER_REPETITION: dict[str, Any] = {
    "max_duplicate_line_fraction": {"dup_line_frac": 0.3},
    "max_duplicate_paragraph_fraction": {"dup_para_frac": 0.3},
    "max_duplicate_line_character_fraction": {"dup_line_char_frac": 0.2},
    "max_duplicate_paragraph_character_fraction": {"dup_para_char_frac": 0.2},
    **{
        f"max_top_{n}gram_character_fraction": {"top_n_grams": ((n, share),)}
        for n, share in ((2, 0.2), (3, 0.18), (4, 0.16))
    },
    **{
        f"max_duplicate_{n}gram_character_fraction": {"dup_n_grams": ((n, share),)}
        for n, share in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    },
}
NO_GOPHER_REPETITION: dict[str, Any] = {
    "dup_line_frac": None,
    "dup_para_frac": None,
    "dup_line_char_frac": None,
    "dup_para_char_frac": None,
    "top_n_grams": (),
    "dup_n_grams": (),
}
FINEWEB: dict[str, Any] = {
    "min_terminal_line_fraction": {"line_punct_thr": 0.12},
    "max_short_line_fraction": {"short_line_thr": 0.67},
    "max_duplicate_full_line_character_fraction": {"char_duplicates_ratio": 0.01},
    "max_newline_ratio": {"new_line_ratio": 0.3},
}
NO_FINEWEB: dict[str, Any] = {
    "line_punct_thr": -1,
    "short_line_thr": 2,
    "char_duplicates_ratio": 2,
    "new_line_ratio": 1e9,
}
C4: dict[str, Any] = {
    "min_sentences": {"min_num_sentences": 5},
    "max_lorem_ipsum_lines": {"filter_lorem_ipsum": True},
    "max_curly_bracket_lines": {"filter_curly_bracket": True},
}
NO_C4: dict[str, Any] = {"min_num_sentences": -1, "filter_lorem_ipsum": False, "filter_curly_bracket": False}


class OneSymbol(GopherQualityFilter):
    """The rule of hash signs or that of ellipses: datatrove has one threshold for both."""

    def __init__(self, marks: tuple[str, ...]) -> None:
        """marks: what is counted."""
        super().__init__()
        self.marks = marks

    def filter(self, doc: Document) -> bool:
        """The expression of GopherQualityFilter for one of the two."""
        marks = sum(doc.text.count(mark) for mark in self.marks)
        return bool(not marks / len(split_into_words(doc.text, self.language)) > self.max_symbol_word_ratio)


def single_rules() -> Iterator[tuple[str, Any]]:
    """Filters with one rule each, those that look at the whole text's words first."""
    for section, rules, off, kind in (
        ("gopher_quality", GOPHER_QUALITY, NO_GOPHER_QUALITY, GopherQualityFilter),
        ("gopher_repetition", GOPHER_REPETITION, NO_GOPHER_REPETITION, GopherRepetitionFilter),
        ("fineweb", FINEWEB, NO_FINEWEB, FineWebQualityFilter),
        ("c4", C4, NO_C4, C4QualityFilter),
    ):
        for name, options in rules.items():
            one = OneSymbol(options) if isinstance(options, tuple) else kind(**off | options)
            yield f"{section}.{name}", one


def verdict(rule: Any, text: str) -> str | None:
    """The reason for which a filter drops a text, None if it keeps it."""
    try:
        answer = rule.filter(Document(text=text, id=""))
    except (ZeroDivisionError, IndexError, TypeError):
        return "error"
    if answer is True:
        return None
    return answer[1] if isinstance(answer, tuple) else "dropped"


def main() -> None:
    """Read the texts, ask every filter, write the verdicts."""
    with open(sys.argv[1]) as file:
        texts = json.load(file)
    # The filters share the words of the last texts; C4 asks for sentences line by line and goes last.
    sets = {
        "gopher_quality": GopherQualityFilter(),
        "gopher_repetition": GopherRepetitionFilter(),
        "fineweb": FineWebQualityFilter(),
        "c4": C4QualityFilter(),
    }
    singles = dict(single_rules())
    for rule in (*sets.values(), *singles.values()):
        verdict(rule, "The spaCy model is loaded by this line. It is not timed.")
    verdicts: dict[str, list[str | None]] = {name: [] for name in (*sets, *singles)}
    seconds = 0.0
    for text in texts:
        start = time.process_time()
        for name, rule in sets.items():
            verdicts[name].append(verdict(rule, text))
        seconds += time.process_time() - start
        for name, rule in singles.items():
            verdicts[name].append(verdict(rule, text))
    with open(sys.argv[2], "w") as file:
        json.dump({"seconds": seconds, "verdicts": verdicts}, file)


if __name__ == "__main__":
    main()
