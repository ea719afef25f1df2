r"""Replacing personal data and secrets.

A kernel finds candidates in the bytes; only those reach Python, where the rules below decide.

email   local part, "@", two or more labels, the last a top-level domain of the Public Suffix List. As FineWeb
        (datatrove's PIIFormatter), but upper case counts, and a local part does not reach into a URL's path.
        Addresses at example.com, .net, .org and .edu and in .example, .invalid, .test and .localhost
        (RFC 2606) are kept, and so is code (`_in_code`): products of matrices, user@host:path and
        scheme://user@host, package@version. The great domains (.com, .org) end an address wherever they
        stand, so that what code has to look like decides only about the others.
ipv4    four numbers without leading zeros that no digit, letter or further number touches. As in
        FineWeb only public addresses (`ipaddress.is_global`): private, loopback, link-local, reserved and
        documentation addresses stay. Unlike FineWeb, so do quads of at most five digits ("9.3.3.1",
        "2.6.15.6"): hardly one address in 100,000 is so short, and nearly all such text is versions and
        section numbers. A longer version number cannot be told from an address.
ipv6    a public address in 2000::/3, the only block that is allocated (RFC 4291 and the IANA registry).
phone   "+" and 8 to 15 digits in groups, or a North American number as 202-456-1111, 202.456.1111 or
        (202) 456-1111, with or without a leading 1; valid by `phonenumbers` (Google's libphonenumber).
        555-0100 to 555-0199, kept for fiction, stay. Other national forms cannot be told from numbers.
secret  the rules of fixed form of `detect-secrets` 1.5 (Yelp): AWS, Artifactory, Azure storage, passwords in
        URLs, Discord, GitHub, GitLab, JSON web tokens, Mailchimp, npm, OpenAI, PyPI, SendGrid, Slack,
        Square, Stripe, Telegram, Twilio; and the key within a PEM private key block. Its keyword and entropy
        rules are for reviewing code by hand: in prose nearly all they find is none.

Of overlapping spans the first stays, of those the longest, of those a secret.
"""

import functools
import ipaddress
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc
from detect_secrets.plugins import (
    artifactory,
    aws,
    azure_storage_key,
    discord,
    github_token,
    gitlab_token,
    jwt,
    mailchimp,
    npm,
    openai,
    pypi_token,
    sendgrid,
    slack,
    square_oauth,
    stripe,
    telegram_token,
    twilio,
)
from publicsuffixlist import PublicSuffixList

from base.errors import UserError
from base.kernels import inlined, kernel, load64, trailing_zeros
from dedup.hashing import string_buffers
from pipelines.corpus.text.settings import RedactConfig
from pipelines.corpus.text.splice import splice

KINDS = ("secret", "email", "ipv4", "ipv6", "phone")
_SECRET, _EMAIL, _IPV4, _IPV6, _PHONE = range(5)
_PASSWORD, _TOKEN = 5, 6  # candidates that become secrets: password in a URL, place of a token (+ rule set)
_MOST = 64  # candidates that one place may have
_WINDOW = 1024  # bytes before and after an anchor that count as its line, at least
_CONTEXT = 256  # bytes before and after what may be an address that say what it is
_KEY_BYTES = 2**15  # longest private key

# What a byte may be part of.
_DIGIT, _WORD, _LOCAL, _LABEL, _RUN, _HEX, _USER, _LETTER = (np.uint8(1 << bit) for bit in range(8))


def _byte_classes() -> np.ndarray:
    classes = np.zeros(256, np.uint8)
    for byte in range(256):
        character = chr(byte)
        word = byte >= 128 or character.isalnum() or character == "_"
        ascii_word = byte < 128 and character.isalnum()
        classes[byte] |= _DIGIT * character.isdigit() * (byte < 128)
        classes[byte] |= _WORD * word
        classes[byte] |= _LOCAL * (ascii_word or character in "._%+~&'-")
        classes[byte] |= _LABEL * (ascii_word or character == "-")
        classes[byte] |= _RUN * (ascii_word or character in "_-+/=.:\\")
        classes[byte] |= _HEX * (byte < 128 and character in "0123456789abcdefABCDEF")
        # What detect-secrets allows in the user and password of a URL.
        classes[byte] |= _USER * (byte > 32 and byte != 127 and character not in ":/?#[]@!$&'()*+,;=")
        classes[byte] |= _LETTER * (ascii_word and not character.isdigit())
    return classes


_CLASSES = _byte_classes()

# For each rule set: literals of which every match has one, and the bytes of a token that follow it at least.
# Where they are, the rules look for a match in the line.
_ANCHORS: dict[str, list[tuple[str, int]]] = {
    "artifactory": [("AKC", 10), *((f"AP{end}", 8) for end in "0123456789ABCDEF")],
    "aws": [
        *((prefix, 16) for prefix in ("A3T", "ABIA", "ACCA", "AKIA", "ASIA")),
        *((prefix, 0) for prefix in ("aws", "AWS", "Aws")),
    ],
    "azure": [("AccountKey=", 80)],
    "discord": [("M", 24), ("N", 24), ("O", 24)],
    "github": [(prefix, 36) for prefix in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")],
    "gitlab": [
        *((prefix, 20) for prefix in ("glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "GR1348941", "glcbt-")),
        ("glimt-", 25), ("glptt-", 40), ("glagent-", 50), ("gloas-", 64),
    ],
    "jwt": [("eyJ", 10)],
    "mailchimp": [(f"-us{digit}", 0) for digit in "0123456789"],
    "npm": [("_authToken", 0)],
    "openai": [("T3BlbkFJ", 20)],
    "pypi": [("pypi-AgE", 70)],
    "sendgrid": [("SG.", 65)],
    "slack": [*((f"xox{letter}-", 3) for letter in "abpors"), ("hooks.slack.com/services/T", 4)],
    "square": [("sq0csp-", 43)],
    "stripe": [("sk_live_", 24), ("rk_live_", 24)],
    "twilio": [("AC", 32), ("SK", 32)],
    "private key": [(" PRIVATE KEY", 0), ("PuTTY-User-Key-File-2", 0)],
}  # fmt: skip
_SETS = [*_ANCHORS, "telegram"]
_TELEGRAM = _TOKEN + len(_ANCHORS)
_AWS = _SETS.index("aws")
_AWS_RUN = 20  # letters, digits, "/" and "+" in a row that every key of AWS has at least


@functools.cache
def _rules(name: str) -> list[tuple[re.Pattern[bytes], int]]:
    """(expression over the bytes of a line, group that is the secret) of a rule set."""
    detector: Any = {
        "artifactory": artifactory.ArtifactoryDetector,
        "aws": aws.AWSKeyDetector,
        "azure": azure_storage_key.AzureStorageKeyDetector,
        "discord": discord.DiscordBotTokenDetector,
        "github": github_token.GitHubTokenDetector,
        "gitlab": gitlab_token.GitLabTokenDetector,
        "mailchimp": mailchimp.MailchimpDetector,
        "npm": npm.NpmDetector,
        "openai": openai.OpenAIDetector,
        "pypi": pypi_token.PypiTokenDetector,
        "sendgrid": sendgrid.SendGridDetector,
        "slack": slack.SlackDetector,
        "square": square_oauth.SquareOAuthDetector,
        "stripe": stripe.StripeDetector,
        "telegram": telegram_token.TelegramBotTokenDetector,
        "twilio": twilio.TwilioKeyDetector,
    }[name]
    groups = {("aws", 1): 1, ("npm", 0): 1}
    return [
        (re.compile(rule.pattern.encode(), rule.flags & ~re.UNICODE), groups.get((name, number), 0))
        for number, rule in enumerate(detector.denylist)
    ]


_JWT = re.compile(jwt.JwtTokenDetector.denylist[0].pattern.encode() + rb"(?:\.?[A-Za-z0-9_-]+)?")
# A header ends with its line or before what may be the key. The look-ahead keeps what the headers have taken:
# in text that is no key, giving back would take time exponential in its lines. (Possessive quantifiers would
# say the same, but those of Python 3.11.2 do not match what they should.)
_PEM = re.compile(
    rb"PRIVATE KEY(?: BLOCK)?-----"
    rb"(?=((?:(?:\s|\\n)+[A-Za-z-]+: (?:(?!(?:\s|\\n)[A-Za-z0-9+/=]{20})[^\n])*){0,32}))\1(?:\s|\\n)+"
    rb"(?P<key>[A-Za-z0-9+/=]{20,}(?:(?:\s|\\n|[\"',])+[A-Za-z0-9+/=]{20,})*"
    rb"(?:(?:\s|\\n|[\"',])+[A-Za-z0-9+/]{1,19}(?:={1,2}|(?=\s*-----END)))?)"
)
_PUTTY = re.compile(
    rb"PuTTY-User-Key-File-2:[\s\S]{0,4096}?Private-Lines: \d+\s+"
    rb"(?P<key>[A-Za-z0-9+/=]{20,}(?:\s+[A-Za-z0-9+/=]{20,})*)"
)
_RESERVED_DOMAIN = re.compile(
    rb"(?:^|[@.])(?:example\.(?:com|net|org|edu)|example|invalid|test|localhost)$", re.IGNORECASE
)
_GREAT = frozenset((b"com", b"org", b"net", b"edu", b"gov", b"mil", b"de", b"uk"))
"""Top-level domains with so many addresses that names of members and files are few beside them."""
_RETIRED = (b"an", b"tp", b"yu", b"zr")
"""Top-level domains that old text has and the Public Suffix List has no more."""
_FILE_TYPES = frozenset(
    (b"py", b"pl", b"sh", b"rs", b"md", b"so", b"ps", b"cc", b"zip", b"mov", b"ml", b"pm")
)
_HOST_PATH = re.compile(rb":(?:[\w.~-]*/|[\w.-]+\.git\b)")
_TALKING_SCHEMES = re.compile(rb"(?i:mailto|sips?|xmpp|im)://$")
_URL_USER = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s/@?#]*:)?$")
_URL_PATH = re.compile(rb"://[^\s?#=&\"'<>]*/$")
_TAG = re.compile(
    rb"(?i:v?\d+|latest|next|canary|nightly|beta|alpha|rc|main|master|stable|dev|develop|head|lts|edge)"
)
_OPERATOR_BEFORE = re.compile(rb"(?:[=+*/-]|\breturn)[ \t]+$")
_FICTION = re.compile(r"1?\d{3}55501\d\d")


@functools.cache
def _anchor_tables() -> tuple[np.ndarray, ...]:
    """(action of each pair of bytes, first anchor of each pair, anchors' bytes, offsets, runs, rule sets).

    Action of (previous byte, byte): 1 an "@", 2 a digit that starts a number, 3 the start of an anchor. It is
    at the place previous byte + 256 * byte, as a word holds the two.
    """
    anchors = sorted((*anchor, _SETS.index(name)) for name in _ANCHORS for anchor in _ANCHORS[name])
    pairs = np.zeros((256, 256), np.uint8)
    firsts = np.zeros((256, 256), np.int16)
    for number, (literal, _, _) in reversed(list(enumerate(anchors))):
        seconds = range(256) if len(literal) == 1 else [ord(literal[1])]
        for second in seconds:
            pairs[ord(literal[0]), second] = 3
            firsts[ord(literal[0]), second] = number
    pairs[np.ix_((_CLASSES & (_WORD | _DIGIT)) == 0, (_CLASSES & _DIGIT) > 0)] = 2
    pairs[:, ord("@")] = 1
    encoded = [literal.encode() for literal, _, _ in anchors]
    offsets = np.cumsum([0, *(len(literal) for literal in encoded)])
    runs, sets = (np.array([anchor[column] for anchor in anchors], np.int64) for column in (1, 2))
    actions = np.ascontiguousarray(pairs.T).reshape(-1)
    return actions, firsts, np.frombuffer(b"".join(encoded), np.uint8), offsets, runs, sets


@kernel
def _digits(data: np.ndarray, p: int, end: int, classes: np.ndarray, most: int) -> int:
    """Number of digits at p, counting no further than most + 1."""
    count = 0
    while count <= most and p + count < end and classes[data[p + count]] & _DIGIT:
        count += 1
    return count


@kernel
def _ipv4(data: np.ndarray, p: int, end: int, classes: np.ndarray) -> int:
    """End of the dotted quad of more than five digits at p, or 0."""
    digits = 0
    for part in range(4):
        count = _digits(data, p, end, classes, 3)
        if count == 0 or count > 3:
            return 0
        p += count
        digits += count
        if part < 3:
            if p >= end or data[p] != 46:
                return 0
            p += 1
    if digits < 6 or (p < end and classes[data[p]] & _WORD):
        return 0
    if p + 1 < end and data[p] == 46 and classes[data[p + 1]] & _DIGIT:
        return 0
    return p


@kernel
def _ipv6(data: np.ndarray, p: int, end: int, classes: np.ndarray) -> int:
    """End of what may be an IPv6 address of 2000::/3 at p, or 0."""
    if p + 5 >= end or data[p + 4] != 58 or (data[p] != 50 and data[p] != 51):
        return 0
    colons = 0
    double = False
    at = p
    while at < end and at < p + 46:
        if data[at] == 58:
            colons += 1
            double |= at + 1 < end and data[at + 1] == 58
        elif not classes[data[at]] & _HEX:
            break
        at += 1
    if colons < 2 or (colons < 7 and not double) or (at < end and classes[data[at]] & _WORD):
        return 0
    # "::" at the end is a network's, or reStructuredText; a single colon is punctuation.
    if data[at - 1] == 58 and data[at - 2] == 58:
        return 0
    return at - 1 if data[at - 1] == 58 else at


@kernel
def _international(data: np.ndarray, p: int, end: int, classes: np.ndarray) -> int:
    """End of the longest run of digit groups at p with single separators (") " and " (" too), or 0."""
    digits = 0
    last = 0
    at = p
    separators = 0
    while at < end and digits <= 15:
        c = data[at]
        if classes[c] & _DIGIT:
            digits += 1
            separators = 0
            last = at + 1
        elif (c == 32 or c == 45 or c == 46 or c == 40 or c == 41 or c == 47) and separators < 2:
            separators += 1
        else:
            break
        at += 1
    return last if digits >= 8 else 0


@kernel
def _north_american(data: np.ndarray, p: int, end: int, classes: np.ndarray, open_bracket: bool) -> int:
    """End of ddd-ddd-dddd, ddd.ddd.dddd or (ddd) ddd-dddd whose first digit is at p, or 0."""
    if p + 12 > end or _digits(data, p, end, classes, 3) != 3 or data[p] < 50:
        return 0
    at = p + 3
    separator = data[at]
    if open_bracket:
        if separator != 41:
            return 0
        at += 1
        if at < end and data[at] == 32:
            at += 1
        separator = 0
    elif separator == 45 or separator == 46:
        at += 1
    else:
        return 0
    if at + 8 > end or _digits(data, at, end, classes, 3) != 3 or data[at] < 50:
        return 0
    at += 3
    if data[at] != separator and (separator != 0 or (data[at] != 45 and data[at] != 46 and data[at] != 32)):
        return 0
    at += 1
    if _digits(data, at, end, classes, 4) != 4:
        return 0
    at += 4
    if at < end and classes[data[at]] & _WORD:
        return 0
    if at + 1 < end and (data[at] == 45 or data[at] == 46) and classes[data[at + 1]] & _DIGIT:
        return 0
    return at


@kernel
def _email(data: np.ndarray, at: int, start: int, end: int, classes: np.ndarray) -> tuple[int, int]:
    """(first byte, end) of the address whose "@" is at `at`; end is 0 if it is none."""
    first = at
    while first > start and classes[data[first - 1]] & _LOCAL and at - first < 64:
        first -= 1
    if first > start and (data[first - 1] == 64 or classes[data[first - 1]] & _LOCAL):
        return first, 0
    while first < at and not (classes[data[first]] & (_LETTER | _DIGIT) or data[first] == 95):
        first += 1
    if first == at or data[at - 1] == 46:
        return first, 0
    p = at + 1
    labels = 0
    last = 0
    while p < end:
        label = p
        letters = True
        while p < end and classes[data[p]] & _LABEL:
            letters &= (classes[data[p]] & _LETTER) > 0
            p += 1
        if p == label or data[label] == 45:
            break
        labels += 1
        if labels > 1 and letters and p - label > 1:
            last = p
        if p + 1 >= end or data[p] != 46:
            break
        p += 1
    return first, last


@kernel
def _password(data: np.ndarray, at: int, start: int, classes: np.ndarray) -> int:
    """First byte of the password of ://user:password@, whose "@" is at `at`; `at` if there is none."""
    p = at
    while p > start and classes[data[p - 1]] & _USER:
        p -= 1
    first = p
    if p == start or first == at or data[p - 1] != 58:
        return at
    p -= 1
    user = p
    while p > start and classes[data[p - 1]] & _USER:
        p -= 1
    if p == user or p - start < 3 or data[p - 1] != 47 or data[p - 2] != 47 or data[p - 3] != 58:
        return at
    return first


@kernel
def _number(
    data: np.ndarray, p: int, start: int, end: int, classes: np.ndarray, kinds: np.ndarray
) -> tuple[int, int, int]:
    """(kind, first byte, end) of the candidate whose first digit is at p; end 0 if it is none."""
    before = data[p - 1] if p > start else 10
    if before == 43:
        if kinds[_PHONE] and data[p] != 48 and (p < start + 2 or not classes[data[p - 2]] & _WORD):
            return _PHONE, p - 1, _international(data, p, end, classes)
        return _PHONE, p, 0
    count = _digits(data, p, end, classes, 10)
    if p + count >= end:
        return _PHONE, p, 0
    after = data[p + count]
    if after == 46 and count < 4 and kinds[_IPV4] and before != 46:
        last = _ipv4(data, p, end, classes)
        if last:
            return _IPV4, p, last
    if after == 58 and count == 4 and kinds[_IPV6] and before != 58:
        return _IPV6, p, _ipv6(data, p, end, classes)
    if after == 58 and 8 <= count <= 10 and kinds[_SECRET]:
        at = p + count + 1
        while at < end and classes[data[at]] & _RUN and at < p + count + 40:
            at += 1
        return _TELEGRAM, p, (p + 1 if at - p - count > 35 else 0)
    if kinds[_PHONE] and before != 46 and before != 45 and before != 47:
        if count == 3 and (after == 45 or after == 46 or (after == 41 and before == 40)):
            last = _north_american(data, p, end, classes, before == 40)
            return _PHONE, p - (before == 40), last
        if count == 1 and data[p] == 49 and (after == 45 or after == 46 or after == 32) and p + 2 < end:
            bracket = data[p + 2] == 40
            return _PHONE, p, _north_american(data, p + 2 + bracket, end, classes, bracket)
    return _PHONE, p, 0


@inlined
def _actions(pairs: np.ndarray, word: np.uint64) -> Any:
    """The actions of the seven pairs of neighbours in eight bytes, a byte each, the first lowest."""
    low = np.uint64(0xFFFF)
    return (
        np.uint64(pairs[word & low])
        | np.uint64(pairs[(word >> np.uint64(8)) & low]) << np.uint64(8)
        | np.uint64(pairs[(word >> np.uint64(16)) & low]) << np.uint64(16)
        | np.uint64(pairs[(word >> np.uint64(24)) & low]) << np.uint64(24)
        | np.uint64(pairs[(word >> np.uint64(32)) & low]) << np.uint64(32)
        | np.uint64(pairs[(word >> np.uint64(40)) & low]) << np.uint64(40)
        | np.uint64(pairs[word >> np.uint64(48)]) << np.uint64(48)
    )


@kernel
def _aws_line(data: np.ndarray, place: int, start: int, end: int, classes: np.ndarray) -> tuple[int, bool]:
    """(byte up to which `_secrets` at `place` looks, whether what it looks at has a run as keys have)."""
    lower, upper = max(start, place - _WINDOW), min(end, place + 2 * _WINDOW)
    at = place
    while at > lower and data[at - 1] != 10:
        at -= 1
    run = longest = 0
    while at < upper and (at < place or data[at] != 10):
        byte = data[at]
        run = run + 1 if classes[byte] & (_LETTER | _DIGIT) or byte == 47 or byte == 43 else 0
        longest = max(longest, run)
        at += 1
    return min(place + _WINDOW, at), longest >= _AWS_RUN


@kernel
def _grow(array: np.ndarray) -> np.ndarray:
    grown = np.empty((2 * len(array), array.shape[1]), array.dtype)
    grown[: len(array)] = array
    return grown


@kernel
def _candidates(
    data: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    pairs: np.ndarray,
    firsts: np.ndarray,
    literals: np.ndarray,
    literal_offsets: np.ndarray,
    runs: np.ndarray,
    sets: np.ndarray,
    kinds: np.ndarray,
) -> np.ndarray:
    """(row, kind, first byte, end) of every candidate, bytes counted within `data`, as found."""
    out = np.empty((4 * _MOST, 4), np.int64)
    found = 0
    aws_seen = 0  # as `_spans` has it
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        p = start - 1
        while p + 1 < end:
            p += 1
            if p > start and p + 7 <= end:
                actions = _actions(pairs, load64(data, p - 1))
                if actions == 0:
                    p += 6
                    continue
                skipped = trailing_zeros(actions) >> 3
                p += skipped
                action = np.uint8(actions >> np.uint64(8 * skipped))
            else:
                before = np.int64(data[p - 1]) if p > start else 10
                action = pairs[before | np.int64(data[p]) << 8]
            if action == 0:
                continue
            if found + _MOST > len(out):
                out = _grow(out)
            if action == 1:
                if kinds[_EMAIL]:
                    first, last = _email(data, p, start, end, classes)
                    if last:
                        out[found] = row, _EMAIL, first, last
                        found += 1
                if kinds[_SECRET]:
                    first = _password(data, p, start, classes)
                    if first < p:
                        out[found] = row, _PASSWORD, first, p
                        found += 1
            elif action == 2:
                kind, first, last = _number(data, p, start, end, classes, kinds)
                if last:
                    out[found] = row, kind, first, last
                    found += 1
            elif kinds[_SECRET]:
                anchor = firsts[data[p - 1], data[p]]
                while anchor < len(runs) and literals[literal_offsets[anchor]] == data[p - 1]:
                    size = literal_offsets[anchor + 1] - literal_offsets[anchor]
                    at = p - 1
                    while size and at < end and literals[literal_offsets[anchor + 1] - size] == data[at]:
                        size -= 1
                        at += 1
                    # From its end: most words are shorter than what a token needs.
                    need = at + runs[anchor]
                    possible = size == 0 and need <= end
                    while possible and need > at:
                        need -= 1
                        possible = classes[data[need]] & _RUN != 0
                    if possible and sets[anchor] == _AWS:
                        possible = p - 1 >= aws_seen
                        if possible:
                            aws_seen, possible = _aws_line(data, p - 1, start, end, classes)
                    if possible:
                        out[found] = row, _TOKEN + sets[anchor], p - 1, p
                        found += 1
                    anchor += 1
    return out[:found]


def _secrets(document: memoryview, place: int, name: str) -> tuple[list[tuple[int, int]], int]:
    """(first byte, end) of the secrets that a rule set finds around byte `place`, in its line.

    Also returns the byte up to which nothing has to be looked for again: a place before it has been seen with
    as much of its line as a place of its own would have.
    """
    if name == "private key":
        shift = max(0, place - 64)
        content = document[shift : place + 2 * _KEY_BYTES]
        matches = (match for rule in (_PEM, _PUTTY) for match in rule.finditer(content))
        spans = [(match.start("key") + shift, match.end("key") + shift) for match in matches]
        return spans, min(place + _KEY_BYTES, len(document))
    lower = max(0, place - _WINDOW)
    window = bytes(document[lower : place + 2 * _WINDOW])
    begin = window.rfind(b"\n", 0, place - lower) + 1
    stop = window.find(b"\n", place - lower)
    line = window[begin : stop if stop >= 0 else len(window)]
    shift = lower + begin
    spans = [(first + shift, last + shift) for first, last in _in_line(line, name)]
    return spans, min(place + _WINDOW, shift + len(line))


def _in_line(line: bytes, name: str) -> Iterator[tuple[int, int]]:
    """(first byte, end) of the secrets that a rule set finds in a line."""
    if name == "jwt":
        for match in _JWT.finditer(line):
            if jwt.JwtTokenDetector.is_formally_valid(match.group().decode()):
                yield match.span()
        return
    for rule, group in _rules(name):
        for match in rule.finditer(line):
            if name == "artifactory":
                # Its rules take in what is around the token, and capitals such as APACHECONFIG.
                token = match.group().strip(b' \t\r\v\f=:"')
                if any(character in b"0123456789" for character in token):
                    begin = match.start() + match.group().index(token)
                    yield begin, begin + len(token)
            else:
                yield match.span(group)


@functools.cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList(accept_unknown=False, only_icann=True)


@functools.lru_cache(2**12)
def _is_top(label: bytes) -> bool:
    """Whether every name below a label in lower case is one of a top-level domain."""
    return _suffixes().publicsuffix(f"x.x.{label.decode()}") is not None or label in _RETIRED


def _is_domain(below: bytes, last: bytes) -> bool:
    """Whether the last labels of a name in lower case end in a top-level domain."""
    # South Africa's has no names right below it but those that are listed.
    return _is_top(last) or (last == b"za" and _suffixes().publicsuffix(f"x.{below.decode()}.za") is not None)


def _address_end(address: bytes, before: bytes, after: bytes) -> int:
    """Length of the e-mail address at the start of a candidate, 0 if it is none.

    before, after: what stands in front of the candidate and behind it.
    """
    local, domain = address.split(b"@")
    labels = domain.split(b".")
    for count in range(len(labels), 1, -1):
        for size in _ends_of_label(labels[count - 1], after):
            last = labels[count - 1][:size]
            following = b".".join([labels[count - 1][size:], *labels[count:]]) + after
            if not last.isalpha() or not _is_domain(labels[count - 2].lower(), last.lower()):
                continue
            if _in_code(local, [*labels[: count - 1], last], before, following):
                return 0
            return len(local) + 1 + len(b".".join(labels[: count - 1])) + 1 + size
        # The candidate goes on: with the next sentence, or it is none.
        if count > 2 and labels[count - 2].lower() not in _GREAT and not labels[count - 1][:1].isupper():
            return 0
    return 0


def _ends_of_label(label: bytes, after: bytes) -> list[int]:
    """Where the top-level domain may end that a label begins with: text may follow it without a space."""
    ends = [len(label)]
    if label.endswith(b"E") and after.startswith(b"<"):
        ends.append(len(label) - 1)  # E<lt>joe@corp.comE<gt> of Perl's documents
    change = re.match(rb"[a-z]+(?=[A-Z])", label)
    if change and change.group() in _GREAT:
        ends.append(change.end())
    return ends


def _in_code(local: bytes, labels: list[bytes], before: bytes, after: bytes) -> bool:
    """Whether local@labels, which ends in a top-level domain, is no address but code."""
    if _HOST_PATH.match(after) or (local in (b"git", b"hg", b"svn") and re.match(rb":[^\s]", after)):
        return True
    if b"://" in before and _URL_USER.search(before) and not _TALKING_SCHEMES.search(before):
        return True
    top = labels[-1].lower()
    if top in _GREAT:
        return False
    if after[:1] in (b"(", b"[", b"_") or local in (b"this", b"super") or len(labels[-2]) == 1:
        return True  # A call, an index, a longer name; Kotlin's this@Outer; a member of a variable.
    if len(local) < 3 and len(labels) == 2 and _OPERATOR_BEFORE.search(before):
        return True
    tagged = _TAG.fullmatch(labels[0]) is not None
    if top in _FILE_TYPES:
        return tagged or (b"://" in before and _URL_PATH.search(before) is not None)
    return tagged and not labels[0].lstrip(b"vV").isdigit()


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


@functools.lru_cache(2**16)
def _phone_end(candidate: str) -> int:
    """Length of the longest valid number made of whole digit groups at the start of `candidate`, or 0.

    Cached, because numbers repeat, the replacement above all, and libphonenumber takes 0.1 ms for one.
    """
    ends = [match.end() for match in re.finditer(r"\d+", candidate)]
    for end in reversed(ends):
        try:
            number = phonenumbers.parse(candidate[:end], "US")
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number) and not _FICTION.fullmatch(str(number.national_number)):
            return end
    return 0


def _spans(text: pa.LargeStringArray, config: RedactConfig) -> np.ndarray:
    """(row, first byte, end, kind) of what is to be replaced, sorted, none overlapping; bytes within rows."""
    data, offsets = string_buffers(text)
    kinds = np.array([getattr(config, kind) is not None for kind in KINDS])
    found = _candidates(data, offsets, _CLASSES, *_anchor_tables(), kinds)
    view = memoryview(data)  # type: ignore[arg-type]
    key = config.secret.encode() if config.secret is not None else b""
    spans: set[tuple[int, int, int, int]] = set()
    seen: dict[int, int] = {}  # rule set: byte up to which it has looked
    done = (-1, -1)
    for row, kind, first, last in found.tolist():
        start = int(offsets[row])
        if kind >= _TOKEN:
            if first >= seen.get(kind, 0):
                document = view[start : offsets[row + 1]]
                secrets, until = _secrets(document, first - start, _SETS[kind - _TOKEN])
                seen[kind] = start + until
                spans.update((row, begin, -stop, _SECRET) for begin, stop in secrets)
            continue
        candidate = bytes(view[first:last])
        if kind == _EMAIL:
            keep = _RESERVED_DOMAIN.search(candidate) is not None
            if not keep:
                stop = min(last + _CONTEXT, int(offsets[row + 1]))
                around = bytes(view[max(start, first - _CONTEXT) : first]), bytes(view[last:stop])
                last = first + _address_end(candidate, *around)
                keep = last == first or _RESERVED_DOMAIN.search(bytes(view[first:last])) is not None
        elif kind == _PHONE:
            last = first + _phone_end(candidate.decode())
            keep = last == first
        elif kind == _PASSWORD:
            kind, keep = _SECRET, False
        else:
            keep = not _is_public(candidate.decode())
        if not keep:
            spans.add((row, first - start, start - last, kind))
    chosen: list[tuple[int, int, int, int]] = []
    for row, first, last, kind in sorted(spans):
        # A replacement is no secret.
        if kind == _SECRET and bytes(view[offsets[row] + first : offsets[row] - last]) == key:
            continue
        if (row, first) >= done:
            chosen.append((row, first, -last, kind))
            done = (row, -last)
    return np.array(chosen, np.int64).reshape(-1, 4)


@functools.lru_cache(8)
def check(config: RedactConfig) -> None:
    """Raise UserError if a replacement would itself be replaced."""
    for kind in KINDS:
        replacement = getattr(config, kind)
        if replacement is not None and len(_spans(pa.array([replacement], pa.large_string()), config)):
            raise UserError(f"redact.{kind} = {replacement!r} is itself found as personal data or a secret")


def redact(
    text: pa.LargeStringArray, config: RedactConfig
) -> tuple[pa.LargeStringArray, dict[str, np.ndarray]]:
    """Replace what the rules above find.

    Returns the text and int64 columns of one number a document: n_<kind> (spans replaced) and
    delta_<kind> (signed change in UTF-8 bytes) for each of KINDS; bytes before + the sum of the deltas =
    bytes after. Changed documents are looked at again until nothing is found, so redacting twice
    is redacting once. Without anything to replace the result is `text` itself. Raises UserError for a
    replacement that is itself found.
    """
    check(config)
    columns = {f"{kind}_{name}": np.zeros(len(text), np.int64) for name in KINDS for kind in ("n", "delta")}
    replacements = [getattr(config, kind) or "" for kind in KINDS]
    sizes = np.array([len(replacement.encode()) for replacement in replacements])
    spans = _spans(text, config)
    rows = np.unique(spans[:, 0])
    pieces = text.take(pa.array(rows))
    while len(spans):
        row, start, end, kind = (np.ascontiguousarray(spans[:, column]) for column in range(4))
        delta = sizes[kind] - (end - start)
        for number, name in enumerate(KINDS):
            mine = kind == number
            np.add.at(columns[f"n_{name}"], row[mine], 1)
            np.add.at(columns[f"delta_{name}"], row[mine], delta[mine])
        places = np.searchsorted(rows, row)
        pieces = splice(pieces, rows=places, starts=start, ends=end, choices=kind, replacements=replacements)
        spans = _spans(pieces, config)
        spans[:, 0] = rows[spans[:, 0]]
    return (_put(text, rows, pieces) if len(rows) else text), columns


def excerpts(text: pa.LargeStringArray, characters: int, config: RedactConfig) -> pa.LargeStringArray:
    """The first characters of texts for people to look at: without personal data, whatever `config` keeps.

    They are cut after the replacing, so that no half of an address is left at the end.
    """
    everything = RedactConfig(**config.model_dump(exclude_none=True))
    start = pc.utf8_slice_codeunits(text, 0, characters + _WINDOW)
    return pc.utf8_slice_codeunits(redact(start, everything)[0], 0, characters)


def _put(text: pa.LargeStringArray, rows: np.ndarray, values: pa.LargeStringArray) -> pa.LargeStringArray:
    """`text` with the documents `rows` (sorted) replaced by `values`."""
    changed = np.zeros(len(text), np.bool_)
    changed[rows] = True
    return pc.replace_with_mask(text, pa.array(changed), values)
