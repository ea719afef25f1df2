import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.corpus.text import words

# What spaCy 3.8's blank English model makes of these pieces, recorded from it.
SPACY = """
Don't|Do n't
(it's)|( it 's )
U.S.-based|U.S.-based
e.g.,|e.g. ,
foo-bar.com/x-y|foo-bar.com/x-y
http://a-b.org/c=d?e|http://a-b.org/c=d?e
me@a-b.example.com|me@a-b.example.com
a.b-c;|a.b - c ;
end.Next|end . Next
5km²|5 km²
10$|10 $
US$5|US$ 5
x=:)|x= :)
"Hello,"|" Hello , "
cannot|can not
can’t|ca n’t
well-known...|well - known ...
[1].|[ 1 ] .
1,000.50|1,000.50
3.14.|3.14 .
a/b|a / b
2-3|2 - 3
2024-11-24|2024 - 11 - 24
--flag|--flag
a--b|a -- b
a,b|a , b
i.e.|i.e.
id.|i d.
NASA.|NASA .
J.|J.
Mr.|Mr.
=====|= = = = =
-----|-----
last):')|last ) :')
x++|x++
{a:b}|{ a : b }
foo(bar)|foo(bar )
#define|# define
$5|$ 5
""".strip().splitlines()


def test_words_are_those_of_spacy() -> None:
    for line in SPACY:
        piece, found = line.split("|")
        assert words.words_of(piece) == found.split(" "), piece


MARKS = re.escape("…,:;!?()[]{}<>_#*&'\"`’“”")
LOWER, UPPER = "a-zéя", "A-ZÉЯ"
PREFIX = re.compile(rf"[§%=—–{MARKS}$£☃]|\+(?![0-9])|\.\.+|US\$|[CA]\$")
SUFFIX = re.compile(
    rf"(?:……|[{MARKS}☃—–]|\.\.+|['’][sS]|(?<=[0-9])\+|(?<=[0-9])(?:US\$|[CA]\$|[$£])"
    rf"|(?<=[0-9])(?:{'|'.join(map(re.escape, words._UNITS))})"
    rf"|(?<=[0-9{LOWER}%²\-+|{MARKS}])\.|(?<=[{UPPER}][{UPPER}])\.)\Z"
)
INFIX = re.compile(
    rf"\.\.+|[…☃]|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[{LOWER}'\"`’“”,])\.(?=[{UPPER}'\"`’“”,])"
    rf"|(?<=[{LOWER}{UPPER}]),(?=[{LOWER}{UPPER}])|(?<=[{LOWER}{UPPER}0-9])(?:-|–|—|--|---|——|~)(?=[{LOWER}{UPPER}])"
    rf"|(?<=[{LOWER}{UPPER}0-9])[:<>=/](?=[{LOWER}{UPPER}])"
)
LABEL = "[A-Za-z0-9\u00a1-\uffff]"
ADDRESS = re.compile(
    rf"(?:[\w+\-.]{{2,}}://)?(?:\S+@)?(?:[0-9]{{1,64}}(?:\.[0-9]{{1,64}}){{2}}\.[0-9]{{1,3}}"
    rf"|(?:(?:{LABEL}[A-Za-z0-9\u00a1-\uffff_-]{{0,62}})?{LABEL}\.)+[{LOWER}]{{2,63}})(?::\d{{2,5}})?(?:[/?#]\S*)?"
)
SPECIAL = words.special_cases()


def reference(piece: str) -> list[str]:
    """The rules as regular expressions, special cases that stand within a piece apart."""
    before: list[str] = []
    after: list[str] = []
    last = -1
    while piece and len(piece) != last and piece not in SPECIAL:
        last = len(piece)
        prefix = PREFIX.match(piece)
        rest = piece[prefix.end() :] if prefix else piece
        if prefix and rest in SPECIAL:
            before.append(prefix[0])
            piece = rest
            break
        suffix = SUFFIX.search(rest)
        if suffix and piece[: -len(suffix[0])] in SPECIAL:
            after.append(suffix[0])
            piece = piece[: -len(suffix[0])]
            break
        if prefix:
            before.append(prefix[0])
            piece = rest
        if suffix:
            after.append(suffix[0])
            piece = piece[: -len(suffix[0])]
    inside = [piece] if piece else []
    if piece in SPECIAL:
        inside = list(SPECIAL[piece])
    elif not ADDRESS.fullmatch(piece):
        inside = []
        start = 0
        for mark in INFIX.finditer(piece):
            if mark.start() == 0:
                continue
            if mark.start() > start:
                inside.append(piece[start : mark.start()])
            inside.append(mark[0])
            start = mark.end()
        if piece[start:]:
            inside.append(piece[start:])
    return before + inside + after[::-1]


def joins(found: list[str]) -> bool:
    """Whether neighbouring words are a special case together."""
    return any(
        "".join(found[a:b]) in SPECIAL for a in range(len(found)) for b in range(a + 2, len(found) + 1)
    )


PIECE = st.lists(
    st.sampled_from(
        [*"aeksAEKS0159.,:;!?()[]<>=/-+*^~'\"’_#$£%@|…—–é☃²", "...", "--", "km", "US$", "'s", "n't"]
    )
    | st.sampled_from(["can", "do", "it", "com", "www.", "http://", ".org", "e.g.", "Mr.", ":)", "я", "Я"]),
    min_size=1,
    max_size=9,
).map("".join)


@settings(max_examples=1500, deadline=None)
@given(PIECE)
def test_words_equal_the_rules_as_regular_expressions(piece: str) -> None:
    wanted = reference(piece)
    found = words.words_of(piece)
    assert "".join(found) == piece
    assert found == wanted or joins(wanted)


def test_text_is_split_at_any_white_space_and_long_pieces_are_whole_characters() -> None:
    assert words.words_of("one\ttwo\u2003three\nfour") == ["one", "two", "three", "four"]
    assert words.words_of("") == []
    data = np.frombuffer(("é" * 1000).encode(), np.uint8)
    work, sums = words.new_work()
    count, characters = words.split(data, 0, len(data), words.classes(), words.special_table(), work, sums)
    assert (count, characters) == (1, 1000)
    assert words.span_hash(sums, 0, 3) == words.hash_word("ééé")
