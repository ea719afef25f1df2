"""English words: numba kernels that split text as spaCy 3.8's rule-based English tokenizer does.

datatrove reads the quality rules of Gopher, C4 and FineWeb with these words, so that verdicts agree only
with the same splits. A *piece* is what stands between white space. From both ends of a piece marks are taken
off as words of their own; what remains is a special case (a contraction, an abbreviation, an emoticon), a
web address, or is cut at marks inside it. The rules are described at https://spacy.io/usage/linguistic-features
(how spaCy's tokenizer works); the tables here restate its punctuation, unit and exception lists.

Most pieces of a text are common ones. Their words are kept in a direct-mapped cache (`new_cache`), one row a
piece of at most 16 bytes, compared byte for byte, so that what the cache holds never changes a result.
"""

import functools
import unicodedata
from typing import Any

import numpy as np

from base.kernels import GOLDEN, decode, kernel

PRIME = GOLDEN
PIECE_BYTES = 2**16
"""Longer pieces are cut into pieces of this many bytes, so that memory does not follow them."""

SPACE, LINE, ALPHABETIC, SYMBOL, PUNCTUATION, SENTENCE, TERMINAL = (np.uint32(1 << i) for i in range(7))
_PREFIX, _SUFFIX, _BEFORE_POINT, _QUOTE, _ICON, _CURRENCY, _LOWER, _UPPER, _DIGIT, _LABEL = (
    np.uint32(1 << i) for i in range(7, 17)
)
_LETTER = _LOWER | _UPPER
_LIMIT = 0x20000
_BEYOND = ALPHABETIC | _LETTER  # ideographs, but for a few


def _split_list(text: str) -> list[str]:
    return text.split()


# First and last code points. Marks that end a sentence: Unicode property Sentence_Terminal, as FineWeb's
# rules have it; those that the sentence splitter of C4's rules does not know are in _NO_SENTENCE.
_TERMINAL_RANGES = (
    (0x21, 0x21), (0x2E, 0x2E), (0x3F, 0x3F), (0x589, 0x589), (0x61D, 0x61F), (0x6D4, 0x6D4), (0x700, 0x702),
    (0x7F9, 0x7F9), (0x837, 0x837), (0x839, 0x839), (0x83D, 0x83E), (0x964, 0x965), (0x104A, 0x104B),
    (0x1362, 0x1362), (0x1367, 0x1368), (0x166E, 0x166E), (0x1735, 0x1736), (0x17D4, 0x17D6),
    (0x17D9, 0x17DA), (0x1803, 0x1803), (0x1809, 0x1809), (0x1944, 0x1945), (0x1AA8, 0x1AAB),
    (0x1B5A, 0x1B5B), (0x1B5E, 0x1B5F), (0x1B7D, 0x1B7E), (0x1C3B, 0x1C3C), (0x1C7E, 0x1C7F),
    (0x203C, 0x203D), (0x2047, 0x2049), (0x2E2E, 0x2E2E), (0x2E3C, 0x2E3C), (0x2E53, 0x2E54),
    (0x3002, 0x3002), (0xA4FF, 0xA4FF), (0xA60E, 0xA60F), (0xA6F3, 0xA6F3), (0xA6F7, 0xA6F7),
    (0xA876, 0xA877), (0xA8CE, 0xA8CF), (0xA92F, 0xA92F), (0xA9C8, 0xA9C9), (0xAA5D, 0xAA5F),
    (0xAAF0, 0xAAF1), (0xABEB, 0xABEB), (0xFE52, 0xFE52), (0xFE56, 0xFE57), (0xFF01, 0xFF01),
    (0xFF0E, 0xFF0E), (0xFF1F, 0xFF1F), (0xFF61, 0xFF61), (0x10A56, 0x10A57), (0x10F55, 0x10F59),
    (0x10F86, 0x10F89), (0x11047, 0x11048), (0x110BE, 0x110C1), (0x11141, 0x11143), (0x111C5, 0x111C6),
    (0x111CD, 0x111CD), (0x111DE, 0x111DF), (0x11238, 0x11239), (0x1123B, 0x1123C), (0x112A9, 0x112A9),
    (0x1144B, 0x1144C), (0x115C2, 0x115C3), (0x115C9, 0x115D7), (0x11641, 0x11642), (0x1173C, 0x1173E),
    (0x11944, 0x11944), (0x11946, 0x11946), (0x11A42, 0x11A43), (0x11A9B, 0x11A9C), (0x11C41, 0x11C42),
    (0x11EF7, 0x11EF8), (0x11F43, 0x11F44), (0x16A6E, 0x16A6F), (0x16AF5, 0x16AF5), (0x16B37, 0x16B38),
    (0x16B44, 0x16B44), (0x16E98, 0x16E98), (0x1BC9F, 0x1BC9F), (0x1DA88, 0x1DA88),
)  # fmt: skip
_NO_SENTENCE = (
    (0x61D, 0x61E), (0x837, 0x837), (0x839, 0x839), (0x83D, 0x83E), (0x17D4, 0x17DA), (0x1B7D, 0x1B7E),
    (0x2E53, 0x2E54), (0x10F55, 0x10F59), (0x10F86, 0x10F89), (0x11944, 0x11946), (0x11EF7, 0x11EF8),
    (0x11F43, 0x11F44), (0x16E98, 0x16E98),
)  # fmt: skip
# What a word of symbols alone consists of, beside control characters and the marks that end a sentence.
_SYMBOLS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～"
_MARKS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉\u2329\u232a⟦⟧"
_CURRENCIES = "$£€¥฿₽﷼" + "".join(map(chr, range(0x20A0, 0x20C0)))
# Letters: cased ones by their Unicode category within these blocks, in the others every code point.
_CASED_BLOCKS = (
    (0x41, 0x24F), (0x250, 0x2AF), (0x386, 0x3CE), (0x400, 0x45F), (0x490, 0x493), (0x496, 0x497),
    (0x4A2, 0x4A3), (0x4AE, 0x4AF), (0x4BA, 0x4BB), (0x4D8, 0x4D9), (0x4E8, 0x4E9), (0x1D00, 0x1D25),
    (0x1D6B, 0x1D9A), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA722, 0xA7B9), (0xA7FA, 0xA7FA),
    (0xAB30, 0xAB64), (0xFF21, 0xFF5A),
)  # fmt: skip
_UNCASED_BLOCKS = (
    (0x591, 0x5F4), (0x620, 0x64A), (0x66E, 0x6D5), (0x6E5, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8BD),
    (0x900, 0x9FF), (0xB80, 0xCFF), (0xD80, 0xDFF), (0x1100, 0x137F), (0x2E80, 0x30FF), (0x31C0, 0x31EF),
    (0x3200, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0xFB1D, 0xFBB1),
    (0xFBD3, 0xFD3D), (0xFD50, 0xFDC7), (0xFDF0, 0xFDFB), (0xFE30, 0xFE4F), (0xFE70, 0xFEFC),
    (0x1EE00, 0x1EEBB), (0x1F200, 0x1F2FF),
)  # fmt: skip
_UNITS = _split_list(
    """
km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph
hPa Pa mbar mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г
мг м/с км/ч кПа Па мбар Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ
"""
)

# Words that stay whole where the rules would cut them.
_WHOLE = _split_list(
    """
' '' \\") \\n \\t <space> C++ — and/or w/o ma'am Ma'am o'clock O'clock 's 'S ‘s ‘S 'd 're 'em 'll 'nuff em
ll nuff 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout lovin Lovin havin Havin lovin' Lovin' havin'
Havin' Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan.
Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov.
Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g.
E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev.
Sen. St. vs. v.s. ä. ö. ü. :) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] =[ :o) (o: :} :-} 8)
8-) (-8 ;) ;-) (; (-; :( :-( :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= :1
:P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD
XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o
O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\\(ツ)/¯
(╯°□°）╯︵┻━┻ ><(((*>
"""
)
# Words cut where the apostrophe or the bar stands.
_CUT = _split_list(
    """
let|'s Let|'s y'|all y|all how|'d|'y How|'d|'y not|'ve not|ve Not|'ve Not|ve can|not Can|not gon|na Gon|na
got|ta Got|ta c'm|on C'm|on °|c|. °|f|. °|k|. °|C|. °|F|. °|K|.
"""
)
_NOT_SPECIAL = _split_list("Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore")
_PRONOUNS = {
    "i": "m ma ll llve d dve ve",
    "you": "ll llve d dve ve re",
    "he": "ll llve d dve s",
    "she": "ll llve d dve s",
    "it": "ll llve d dve s",
    "we": "ll llve d dve ve re",
    "they": "ll llve d dve ve re",
    **dict.fromkeys(_split_list("who what when where why how there"), "s ll llve re ve d dve"),
    **dict.fromkeys(("that", "this"), "s ll llve d dve"),
    **dict.fromkeys(("these", "those"), "ll llve re ve d dve"),
    **dict.fromkeys(_split_list("could might must should would"), "ve"),
}
_ENDINGS = {"ma": ("m", "a"), "llve": ("ll", "ve"), "dve": ("d", "ve")}
_NEGATED = _split_list("ca could do does did had may might must need ought sha should wo would")
_ONLY_NEGATED = _split_list("ai are is was were have has dare")
_SHORTENED = _split_list("doin goin nothin nuthin ol somethin")


def special_cases() -> dict[str, tuple[str, ...]]:
    """Words whose split no rule gives: the piece, and the words that it is cut into."""
    cases: dict[str, tuple[str, ...]] = {word: (word,) for word in _WHOLE}
    cases |= {f"{chr(letter)}.": (f"{chr(letter)}.",) for letter in range(ord("a"), ord("z") + 1)}
    cases |= {word.replace("|", ""): tuple(word.split("|")) for word in _CUT}
    for stem, endings in _PRONOUNS.items():
        for ending in endings.split():
            parts = _ENDINGS.get(ending, (ending,))
            for word in (stem, stem.title()):
                cases[word + ending] = (word, *parts)
                marked = [f"'{part}" if part != "a" else part for part in parts]
                cases["".join((word, *marked))] = (word, *marked)
    for stem in (*_NEGATED, *_ONLY_NEGATED):
        for word in (stem, stem.title()):
            for no, have in (("n't", "'ve"), ("nt", "ve")):
                cases[word + no] = (word, no)
                if stem in _NEGATED:
                    cases[word + no + have] = (word, no, have)
    for stem in _SHORTENED:
        for word in (stem, stem.title()):
            cases |= {word: (word,), f"{word}'": (f"{word}'",)}
    for hour in range(1, 13):
        cases |= {f"{hour}{half}": (str(hour), half) for half in ("a.m.", "am", "p.m.", "pm")}
    for word in _NOT_SPECIAL:
        cases.pop(word, None)
    curly = {
        piece.replace("'", "’"): tuple(word.replace("'", "’") for word in words)
        for piece, words in cases.items()
        if "'" in piece
    }
    return cases | curly


@functools.cache
def classes() -> np.ndarray:
    """Bits of each code point below 0x20000 (uint32): SPACE, LINE, ALPHABETIC, SYMBOL and the rest."""
    table = np.zeros(_LIMIT, np.uint32)
    for code in range(_LIMIT):
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace():
            table[code] |= SPACE
        if character.isalpha():
            table[code] |= ALPHABETIC
        if category[0] == "P":
            table[code] |= PUNCTUATION
        elif category == "So":
            table[code] |= _PREFIX | _SUFFIX | _ICON
    for bit, text in (
        (LINE, "\n\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029"),
        (SYMBOL, _SYMBOLS + "".join(chr(code) for code in (*range(32), *range(127, 160)))),
        (_PREFIX, "§%=—–" + _MARKS + _QUOTES + _CURRENCIES),
        (_SUFFIX, "—–" + _MARKS + _QUOTES),
        (_BEFORE_POINT, "0123456789%²-+|" + _MARKS + _QUOTES),
        (_QUOTE, _QUOTES),
        (_CURRENCY, _CURRENCIES),
        (_DIGIT, "0123456789"),
    ):
        table[[ord(character) for character in text]] |= bit
    for first, last in _TERMINAL_RANGES:
        table[first : last + 1] |= TERMINAL | SYMBOL | SENTENCE
    for first, last in _NO_SENTENCE:
        table[first : last + 1] &= ~SENTENCE
    for first, last in _CASED_BLOCKS:
        for code in range(first, last + 1):
            category = unicodedata.category(chr(code))
            if category == "Lu":
                table[code] |= _UPPER
            elif category == "Ll" and code != ord("µ"):
                table[code] |= _LOWER | _BEFORE_POINT
    for first, last in _UNCASED_BLOCKS:
        table[first : last + 1] |= _LETTER | _BEFORE_POINT
    for first, last in ((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A), (0xA1, 0xFFFF)):
        table[first : last + 1] |= _LABEL
    return table


def hash_word(word: str) -> np.uint64:
    """The hash that the kernels give a word."""
    value = 0
    for character in word:
        value = (value * int(PRIME) + ord(character) + 1) & (2**64 - 1)
    return np.uint64(value)


# Rows of the table of special cases: an open-addressed table of word hashes (0 is free); the lengths of each
# one's words, four bits each, the first lowest, with _JOINED if the rules may cut it and its words are
# then joined; hashes of units.
_KEYS, _CUTS, _UNIT_HASHES = range(3)
_SPECIAL_SLOTS = 4096
_JOINED = np.uint64(1 << 16)
_MOST_JOINED = 7  # words that the rules make of a special case
_LONGEST_SPECIAL = 12
_LONGEST_UNIT = 4
_UNIT_NUMBER = len(_UNITS)


@functools.cache
def special_table() -> np.ndarray:
    """What `split` looks up beside `classes`: special cases and units (uint64)."""
    table = np.zeros((3, _SPECIAL_SLOTS), np.uint64)
    table[_UNIT_HASHES, :_UNIT_NUMBER] = [hash_word(unit) for unit in _UNITS]
    for piece, words in special_cases().items():
        key = hash_word(piece)
        slot = int(key) % _SPECIAL_SLOTS
        while table[_KEYS, slot]:
            slot = (slot + 1) % _SPECIAL_SLOTS
        table[_KEYS, slot] = key
        cut = sum(len(word) << 4 * number for number, word in enumerate(words))
        if len(words) < 3 and not piece.isalnum():
            cut |= int(_JOINED)
        table[_CUTS, slot] = cut
    return table


# Scratch of `split`, rows by character: code point, class; by word: first character, first character of the
# words at the end in reverse; the word after a special case that begins here, its cut.
CODES, KINDS, STARTS, _SUFFIXES, _ENDS, _CUTS_HERE = range(6)
_BEFORE, _POWERS = range(2)  # rows of `sums`: hash of what goes before a character, powers of PRIME


def new_work() -> tuple[np.ndarray, np.ndarray]:
    """(work, sums): scratch of `split` for one thread."""
    size = PIECE_BYTES + 1
    sums = np.zeros((2, size), np.uint64)
    sums[_POWERS] = PRIME
    sums[_POWERS, 0] = 1
    sums[_POWERS] = np.multiply.accumulate(sums[_POWERS])
    return np.empty((6, size), np.int64), sums


@kernel
def class_of(classes: np.ndarray, code: int) -> Any:
    """The bits of a code point."""
    return classes[code] if code < len(classes) else _BEYOND


@kernel
def span_hash(sums: np.ndarray, left: int, right: int) -> Any:
    """The hash of the characters left to right of the piece, as `hash_word` gives it."""
    return sums[_BEFORE, right] - sums[_BEFORE, left] * sums[_POWERS, right - left]


@kernel
def _special(special: np.ndarray, sums: np.ndarray, left: int, right: int) -> Any:
    """The cut of characters left to right as a special case, 0 if they are none."""
    if right - left > _LONGEST_SPECIAL or right <= left:
        return np.uint64(0)
    key = span_hash(sums, left, right)
    slot = np.int64(key & np.uint64(_SPECIAL_SLOTS - 1))
    while special[_KEYS, slot]:
        if special[_KEYS, slot] == key:
            return special[_CUTS, slot]
        slot = (slot + 1) & (_SPECIAL_SLOTS - 1)
    return np.uint64(0)


@kernel
def _prefix(work: np.ndarray, left: int, right: int) -> int:
    """Length of the mark that begins characters left to right, 0 if none does."""
    code = work[CODES, left]
    if work[KINDS, left] & _PREFIX:
        return 1
    if code == 43:  # +
        return 1 if left + 1 == right or not work[KINDS, left + 1] & _DIGIT else 0
    if code == 46:  # two or more points
        at = left + 1
        while at < right and work[CODES, at] == 46:
            at += 1
        return at - left if at - left > 1 else 0
    if code == 85 and right - left > 2 and work[CODES, left + 1] == 83 and work[CODES, left + 2] == 36:  # US$
        return 3
    if (code == 67 or code == 65) and right - left > 1 and work[CODES, left + 1] == 36:  # C$, A$
        return 2
    return 0


@kernel
def _suffix(work: np.ndarray, special: np.ndarray, sums: np.ndarray, left: int, right: int) -> int:
    """Length of the mark, possessive or unit that ends characters left to right, 0 if none does."""
    if right <= left:
        return 0
    count = right - left
    last = work[CODES, right - 1]
    before = work[KINDS, right - 2] if count > 1 else np.int64(0)
    found = 1 if work[KINDS, right - 1] & _SUFFIX else 0
    if last == 46:
        at = right - 1
        while at > left and work[CODES, at - 1] == 46:
            at -= 1
        if right - at > 1:
            return right - at
        if before & _BEFORE_POINT:
            return 1
        if count > 2:
            if before & _UPPER and work[KINDS, right - 3] & _UPPER:
                return 1
            scale = work[CODES, right - 2] | 32
            if work[CODES, right - 3] == 0xB0 and (scale == 99 or scale == 102 or scale == 107):
                return 1
        return 0
    if last == 0x2026 and count > 1 and work[CODES, right - 2] == 0x2026:
        return 2
    if last | 32 == 115 and count > 1 and (work[CODES, right - 2] == 39 or work[CODES, right - 2] == 0x2019):
        return 2
    if last == 43 and before & _DIGIT:
        return 1
    if work[KINDS, right - 1] & _CURRENCY:
        if last == 36 and count > 2:
            again = work[CODES, right - 2]
            if count > 3 and again == 83 and work[CODES, right - 3] == 85 and work[KINDS, right - 4] & _DIGIT:
                return 3
            if (again == 67 or again == 65) and work[KINDS, right - 3] & _DIGIT:
                return 2
        if before & _DIGIT:
            return 1
    at = right - 1
    while at > left and right - at < _LONGEST_UNIT and not work[KINDS, at - 1] & _DIGIT:
        at -= 1
    if at > left and work[KINDS, at - 1] & _DIGIT and not work[KINDS, at] & _DIGIT:
        unit = span_hash(sums, at, right)
        for i in range(_UNIT_NUMBER):
            if special[_UNIT_HASHES, i] == unit:
                return right - at
    return found


@kernel
def _infix(work: np.ndarray, left: int, right: int, at: int) -> int:
    """Length of the mark at `at` that cuts characters left to right, 0 if there is none."""
    code = work[CODES, at]
    kind = work[KINDS, at]
    if code == 46 and at + 1 < right and work[CODES, at + 1] == 46:
        end = at + 2
        while end < right and work[CODES, end] == 46:
            end += 1
        return end - at
    if code == 0x2026 or kind & _ICON:
        return 1
    if at == left or at + 1 == right:
        return 0
    before, after = work[KINDS, at - 1], work[KINDS, at + 1]
    if code == 46:
        return 1 if before & (_LOWER | _QUOTE) and after & (_UPPER | _QUOTE) else 0
    if code == 44:
        return 1 if before & _LETTER and after & _LETTER else 0
    joins = code == 43 or code == 45 or code == 42 or code == 94  # + - * ^
    if joins and before & _DIGIT and (after & _DIGIT or work[CODES, at + 1] == 45):
        return 1
    if not before & (_LETTER | _DIGIT):
        return 0
    if code == 58 or code == 60 or code == 61 or code == 62 or code == 47:  # : < = > /
        return 1 if after & _LETTER else 0
    if code == 45 or code == 0x2013 or code == 0x2014 or code == 126:
        if after & _LETTER:
            return 1
        longest = 3 if code == 45 else 2 if code == 0x2014 else 1
        end = at + 1
        while end < right and end - at < longest and work[CODES, end] == code:
            end += 1
            if end < right and work[KINDS, end] & _LETTER:
                return end - at
    return 0


@kernel
def _host(work: np.ndarray, at: int, right: int) -> bool:
    """Whether characters at to right are a host name or number, then perhaps a port and a path."""
    labels = 0
    numbers = 0
    while at < right:
        # The rest of the name in lower case, if labels stand before it; or a fourth number.
        end = at
        while end < right and work[KINDS, end] & _LOWER:
            end += 1
        named = labels > 0 and 2 <= end - at <= 63
        if not named and labels == 3 and numbers == 3:
            end = at
            while end < right and end - at < 3 and work[KINDS, end] & _DIGIT:
                end += 1
            named = end > at
        if named:
            if end == right:
                return True
            if work[CODES, end] == 58:
                port = end + 1
                while port < right and work[KINDS, port] & _DIGIT:
                    port += 1
                if 2 <= port - end - 1 <= 5:
                    end = port
            if end == right or work[CODES, end] == 47 or work[CODES, end] == 63 or work[CODES, end] == 35:
                return True
        end = at
        digits = True
        while end < right and (work[KINDS, end] & _LABEL or work[CODES, end] == 45 or work[CODES, end] == 95):
            digits &= work[KINDS, end] & _DIGIT != 0
            end += 1
        if end in (at, right) or work[CODES, end] != 46 or end - at > 64:
            return False
        if not work[KINDS, at] & _LABEL or not work[KINDS, end - 1] & _LABEL:
            return False
        labels += 1
        numbers += digits
        at = end + 1
    return False


@kernel
def _address(work: np.ndarray, left: int, right: int) -> bool:
    """Whether characters left to right are a web or mail address."""
    if _host(work, left, right):
        return True
    scheme = True
    for at in range(left + 1, right):
        code, before = work[CODES, at], work[CODES, at - 1]
        scheme &= work[KINDS, at - 1] & (ALPHABETIC | _DIGIT) != 0 or (
            before == 43 or before == 45 or before == 46 or before == 95
        )
        host = 0
        if code == 64:
            host = at + 1
        elif scheme and code == 58 and 1 < at - left < right - left - 2:
            slashes = work[CODES, at + 1] == 47 and work[CODES, at + 2] == 47
            host = at + 3 if slashes else 0
        if host and _host(work, host, right):
            return True
    return False


@kernel
def _cut_inside(
    work: np.ndarray, special: np.ndarray, sums: np.ndarray, left: np.int64, right: int, words: int
) -> int:
    """Add the words of characters left to right, what is left of a piece without its outer marks."""
    cut = _special(special, sums, left, right) & ~_JOINED
    if cut:
        while cut:
            work[STARTS, words] = left
            words += 1
            left += np.int64(cut & np.uint64(15))
            cut >>= np.uint64(4)
        return words
    work[STARTS, words] = left
    words += 1
    whole = True
    at = left
    while at < right:
        size = _infix(work, left, right, at)
        if size == 0 or at == left:
            at += max(size, 1)
            continue
        if whole and _address(work, left, right):
            return words
        whole = False
        if work[STARTS, words - 1] != at:
            work[STARTS, words] = at
            words += 1
        at += size
        if at < right:
            work[STARTS, words] = at
            words += 1
    return words


@kernel
def _join_special(work: np.ndarray, special: np.ndarray, sums: np.ndarray, words: int, right: int) -> int:
    """Neighbouring words that are a special case together become its words; returns their number.

    Of cases that overlap the longest is joined, then the first; one that is not joined for that hides others,
    too.
    """
    work[STARTS, words] = right
    for i in range(words):
        work[_ENDS, i] = 0
    hidden = False
    for size in range(min(_MOST_JOINED, words), 1, -1):
        for at in range(words - size + 1):
            cut = _special(special, sums, work[STARTS, at], work[STARTS, at + size])
            if not cut & _JOINED:
                continue
            hidden = True
            if work[_ENDS, at] == 0 and work[_ENDS, at + size - 1] == 0:
                work[_CUTS_HERE, at] = np.int64(cut & ~_JOINED)
                work[_ENDS, at] = at + size
            for i in range(at, at + size):
                if work[_ENDS, i] == 0:
                    work[_ENDS, i] = -1
    if not hidden:
        return words
    kept = at = 0
    while at < words:
        first = work[STARTS, at]
        if work[_ENDS, at] > 0:
            cut = np.uint64(work[_CUTS_HERE, at])
            at = work[_ENDS, at]
            while cut:
                work[STARTS, kept] = first
                kept += 1
                first += np.int64(cut & np.uint64(15))
                cut >>= np.uint64(4)
        else:
            work[STARTS, kept] = first
            kept += 1
            at += 1
    return kept


@kernel
def split(
    data: np.ndarray,
    start: int,
    stop: int,
    classes: np.ndarray,
    special: np.ndarray,
    work: np.ndarray,
    sums: np.ndarray,
) -> tuple[int, int]:
    """Split the piece data[start:stop] (UTF-8, no white space, at most PIECE_BYTES).

    Returns (words, characters). In `work` are then CODES and KINDS of the characters, and in STARTS the first
    character of each word, followed by the number of characters; `span_hash` gives hashes of words.
    """
    count = 0
    at = start
    value = np.uint64(0)
    seen = np.uint32(0)
    while at < stop:
        code, size = decode(data, at)
        kind = class_of(classes, code)
        work[CODES, count] = code
        work[KINDS, count] = kind
        value = value * PRIME + np.uint64(code + 1)
        count += 1
        sums[_BEFORE, count] = value
        seen |= kind if kind & (_LETTER | _DIGIT) else _PREFIX
        at += size
    work[STARTS, 0] = 0
    work[STARTS, 1] = count
    # Nothing but letters, or nothing but digits.
    plain = not seen & (_PREFIX | _SUFFIX | _ICON) and (not seen & _DIGIT or not seen & _LETTER)
    if plain and not _special(special, sums, 0, count):
        return 1, count
    words = 0
    left, right = 0, count
    ending = 0  # words at the end, last first
    last = 0
    while left < right and right - left != last:
        if _special(special, sums, left, right):
            break
        last = right - left
        prefix = _prefix(work, left, right)
        if prefix and _special(special, sums, left + prefix, right):
            work[STARTS, words] = left
            words += 1
            left += prefix
            break
        suffix = _suffix(work, special, sums, left + prefix, right)
        if suffix and _special(special, sums, left, right - suffix):
            right -= suffix
            work[_SUFFIXES, ending] = right
            ending += 1
            break
        if prefix:
            work[STARTS, words] = left
            words += 1
            left += prefix
        if suffix:
            right -= suffix
            work[_SUFFIXES, ending] = right
            ending += 1
    if left < right:
        words = _cut_inside(work, special, sums, left, right, words)
    for i in range(ending - 1, -1, -1):
        work[STARTS, words] = work[_SUFFIXES, i]
        words += 1
    if words > 1 and not plain:
        words = _join_special(work, special, sums, words, count)
    work[STARTS, words] = count
    return words, count


def words_of(text: str) -> list[str]:
    """The words of a text; for tests and explanations."""
    work, sums = new_work()
    found = []
    for piece in text.split():
        data = np.frombuffer(piece.encode(), np.uint8)
        count, _ = split(data, 0, len(data), classes(), special_table(), work, sums)
        starts = work[STARTS, : count + 1].tolist()
        found += [piece[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    return found
