"""Web archives (ISO 28500): the main text of HTML responses in WARC files, the plain text in WET files."""

import codecs
import mmap
import re
import zlib
from collections.abc import Iterator
from typing import IO

import brotli
import numpy as np
import pyarrow as pa
import zstandard
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from base import files
from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.formats import WARC_MAGIC
from pipelines.corpus.reading.records import (
    SAMPLE_BYTES,
    Batch,
    Reject,
    column_batch,
    damaged,
    rejected,
    too_long,
)
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.reading.splitting import nearest

_PROBE = 2**12
"""Bytes of a gzip member that are enough for the first few of what it holds."""
_HTML = ("text/html", "application/xhtml+xml")
_LONGEST_HEADER = 2**20
_NEXT = b"\n" + WARC_MAGIC
_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")
_AFTER_RECORD = re.compile(rb"\r\n\r\n|\n+")
_META = re.compile(rb"<meta[^>]*?charset\s*=\s*[\"']?\s*([a-z0-9_:.-]+)", re.IGNORECASE)
_SEVEN_BIT = {
    "iso-2022-jp": "iso2022_jp_ext",
    "csiso2022jp": "iso2022_jp_ext",
    "iso-2022-kr": "iso2022_kr",
    "hz-gb-2312": "hz",
    "hz": "hz",
}
"""Encodings in which everything is ASCII, so that bytes alone tell nothing."""
_CODINGS = {decompress.GZIP_DEFLATE_MAGIC: "gzip", decompress.ZSTD_MAGIC: "zstd"}
_MOST_CODINGS = 3
_CONTROLS = bytes({*range(32)} - {*b"\t\n\f\r\x1b"})
_TAG = re.compile(r"<(/?[a-zA-Z][a-zA-Z0-9]*)")
_FORMATTING = frozenset(("b", "big", "code", "em", "font", "i", "s", "small", "strike", "strong", "tt", "u"))
"""Elements that a parser of HTML opens again after others have closed them (of `a` it has but one open)."""
_FORMATTING_TAG = re.compile(rf"<(?:{'|'.join(sorted(_FORMATTING))})\b[^>]*", re.IGNORECASE)
_CHEAP = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track")
    + ("wbr", "p", "li", "dt", "dd", "tr", "td", "th", "option", "optgroup", "tbody", "thead", "tfoot")
    + ("colgroup", "rp", "rt", "html", "head", "body", "a", "nobr", "span", *_FORMATTING)
)
"""Elements without an end, whose end may be left out, or of which many open ones cost little."""
_FEW_TAGS = 256
_MOST_FORMATTING, _MOST_DEPTH, _MOST_STEPS = 256, 4096, 10**8
_ERRORS = (zlib.error, brotli.error, zstandard.ZstdError)


class _Undecodable(Exception):
    """Why a record is no document: a reason and a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def record_starts(path: str, start: int, stop: int) -> list[int]:
    """Where the records of a range of a local file begin, by their lengths; `start` is the first.

    Empty if anything but whole records lies there.
    """
    starts = []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = start
        while at < stop:
            end = _EMPTY_LINE.search(data, at, at + _LONGEST_HEADER)
            fields = _fields(data[at : end.start()]) if data[at : at + 5] == WARC_MAGIC and end else {}
            length = _length(fields)
            if length is None or end is None:
                return []
            starts.append(at)
            after = _AFTER_RECORD.match(data, end.end() + length)
            if not after:
                return []
            at = after.end()
    return starts


def count(url: str, source: SourceConfig, start: int, stop: int) -> int:
    """Records of a range, as many as `read` numbers."""
    path = files.local_path(url)
    if path and decompress.compression(url) is None:
        return len(record_starts(path, start, stop))
    stream = _Stream(decompress.pieces(url, start, stop))
    records = 0
    while True:
        stream.skip_blank()
        if not stream.peek(1):
            return records + (stream.damage is not None)
        header, fields = stream.header()
        length = _length(fields)
        if length is None and stream.ended_in_header():
            return records + 1
        if length is None:
            stream.skip_to(_NEXT)
        elif stream.skip(header + length) < header + length:
            return records + 1
        records += 1


def cuts(url: str, size: int, wanted: list[int]) -> list[int]:
    """Between records of a local file that is not compressed, and between gzip members of one record each."""
    codec, local = decompress.compression(url), files.local_path(url)
    if codec is None and local:
        return nearest(record_starts(local, 0, size), wanted)
    return _members(url, size, wanted) if codec == "gzip" else [0]


def _members(url: str, size: int, wanted: list[int]) -> list[int]:
    """0 and for each wanted place of a web archive the first gzip member from it on, before the next place.

    A member is known by its magic number and by what it decompresses to, the beginning of a record. A file
    whose first member is long has no others to look for.
    """
    with decompress.open_file(url) as file:
        first = zlib.decompressobj(31)
        try:
            first.decompress(file.read(decompress.STEP), 16 * decompress.STEP)
        except zlib.error:
            return [0]
        if not first.eof:
            return [0]
        ends = [*wanted[1:], size]
        found = [_member(file, place, end) for place, end in zip(wanted, ends, strict=True)]
    return [0, *(place for place in found if place is not None)]


def _member(file: IO[bytes], start: int, stop: int) -> int | None:
    """The first gzip member from `start` on and before `stop` that begins with a web archive's record."""
    for begin in range(start, stop, decompress.STEP):
        file.seek(begin)
        data = file.read(decompress.STEP + _PROBE)
        last = min(stop - begin, decompress.STEP) + len(decompress.GZIP_DEFLATE_MAGIC) - 1
        at = data.find(decompress.GZIP_DEFLATE_MAGIC, 0, last)
        while at >= 0:
            try:
                if zlib.decompressobj(31).decompress(data[at : at + _PROBE], 5) == WARC_MAGIC:
                    return begin + at
            except zlib.error:
                pass
            at = data.find(decompress.GZIP_DEFLATE_MAGIC, at + 1, last)
    return None


def read(
    url: str, source: SourceConfig, config: IngestConfig, start: int, stop: int | None, first_record: int
) -> Iterator[Batch]:
    """Read a WARC or WET file, or a range of whole records of it, before which `first_record` lie.

    A record's number is its place among all records of the file. Documents are successful responses with
    HTML, of which resiliparse takes the main content (with the options of DataComp-LM, Li et al. 2024,
    arXiv 2406.11794), and conversions to plain text. Other responses are rejects; requests, metadata and
    the like are framing.
    """
    stream = _Stream(decompress.pieces(url, start, stop))
    texts: list[tuple[int, int, bytes]] = []  # record, its size in the file, text
    rejects: list[Reject] = []
    record = first_record
    framing = held = 0
    while True:
        framing += stream.skip_blank()
        head = stream.peek(SAMPLE_BYTES)
        if not head:
            break
        header, fields = stream.header()
        length = _length(fields)
        if length is None:
            if stream.ended_in_header():
                break
            size = stream.skip_to(_NEXT)
            rejects.append(Reject(record, "invalid_warc", "There is no WARC header.", size, head))
            held += SAMPLE_BYTES
        else:
            kind = fields.get(b"warc-type", b"")
            size = header + length
            if length > config.max_document_bytes:
                passed = stream.skip(size)
                if passed < size:
                    stream.damage = stream.damage or _ends_early()
                    size = passed
                if kind in (b"response", b"conversion"):
                    rejects.append(too_long(record, size, head, config))
                else:
                    framing += size
            elif len(content := stream.peek(size)) < size:
                break
            else:
                stream.skip(size)
                body = content[header:]
                try:
                    text = _text(kind, fields, body, config)
                    if text is None:
                        framing += size
                    else:
                        texts.append((record, size, text))
                except _Undecodable as error:
                    rejects.append(Reject(record, error.reason, error.detail, size, body[:SAMPLE_BYTES]))
                held += size
        record += 1
        if held >= config.batch_bytes:
            yield _batch(texts, rejects, framing, config)
            texts, rejects, framing, held = [], [], 0, 0
    yield _batch(texts, rejects, framing, config)
    left = stream.peek(config.max_document_bytes + _LONGEST_HEADER)
    if left or stream.damage:
        yield damaged(url, record, stream.damage or _ends_early(), left, len(left), config)


def _ends_early() -> decompress.DamagedFile:
    return decompress.DamagedFile("truncated_file", "the last record ends early")


def _batch(
    texts: list[tuple[int, int, bytes]], rejects: list[Reject], framing: int, config: IngestConfig
) -> Batch:
    batch = column_batch(
        np.array([record for record, _, _ in texts], np.int64),
        pa.array([text for _, _, text in texts], pa.large_binary()),
        np.array([size for _, size, _ in texts], np.int64),
        pa.nulls(len(texts), pa.string()),
        "The text",
        config,
    )
    every = pa.concat_tables([batch.rejects, rejected(rejects).rejects]).sort_by("record")
    return Batch(batch.documents, every, framing)


class _Stream:
    """A stream of pieces to look ahead in; damage ends it and is kept."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.held = b""
        self.at = 0
        self.ended = False
        self.damage: decompress.DamagedFile | None = None

    def _fill(self, size: int) -> None:
        """Hold `size` bytes from here on, or all that are left."""
        have = len(self.held) - self.at
        if have >= size or self.ended:
            return
        block = [self.held[self.at :]]
        while have < size and not self.ended:
            try:
                piece = next(self.pieces, b"")
            except decompress.DamagedFile as damage:
                self.damage, piece = damage, b""
            self.ended = not piece
            block.append(piece)
            have += len(piece)
        self.held, self.at = b"".join(block), 0

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        self._fill(size)
        return self.held[self.at : self.at + size]

    def peek_header(self) -> bytes:
        """The next bytes up to an empty line and with it; none if there is no such line."""
        size = 4096
        while True:
            self._fill(size)
            cut = _EMPTY_LINE.search(self.held, self.at)
            if cut:
                return self.held[self.at : cut.end()]
            if self.ended or size >= _LONGEST_HEADER:
                return b""
            size *= 2

    def header(self) -> tuple[int, dict[bytes, bytes]]:
        """Size and fields of the header of the record that begins here; 0 and none where none does."""
        header = self.peek_header() if self.peek(5) == WARC_MAGIC else b""
        return len(header), _fields(header)

    def ended_in_header(self) -> bool:
        """Whether a record begins here and the file ends before the next empty line."""
        return self.peek(5) == WARC_MAGIC and self.ended and not self.peek_header()

    def skip(self, size: int) -> int:
        """Pass over `size` bytes; returns how many there were."""
        done = 0
        while done < size:
            self._fill(1)
            step = min(size - done, len(self.held) - self.at)
            if step == 0:
                break
            self.at += step
            done += step
        return done

    def skip_blank(self) -> int:
        """Pass over line ends; returns how many bytes they were."""
        done = 0
        while self.peek(1) in (b"\r", b"\n"):
            done += self.skip(1)
        return done

    def skip_to(self, mark: bytes) -> int:
        """Pass over at least one byte, up to the second byte of `mark` or the end; returns how many."""
        done = self.skip(1)
        while True:
            self._fill(len(mark))
            cut = self.held.find(mark, self.at)
            if cut >= 0:
                return done + self.skip(cut + 1 - self.at)
            if self.ended:
                return done + self.skip(len(self.held) - self.at)
            done += self.skip(max(len(self.held) - self.at - len(mark) + 1, 0))
            self._fill(2 * len(mark))


def _fields(header: bytes) -> dict[bytes, bytes]:
    """Header fields by their names in lower case; the first of equal names counts."""
    fields: dict[bytes, bytes] = {}
    for line in header.split(b"\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def _length(fields: dict[bytes, bytes]) -> int | None:
    """Bytes of a record after its header, if that tells them."""
    length = fields.get(b"content-length", b"")
    return int(length) if length.isdigit() else None


def _text(kind: bytes, fields: dict[bytes, bytes], body: bytes, config: IngestConfig) -> bytes | None:
    """The text of a record; None if it is of a kind that holds no page. Raises _Undecodable."""
    if kind == b"conversion":
        return body if fields.get(b"content-type", b"").startswith(b"text/plain") else None
    if kind == b"resource":
        http, payload = {b"content-type": fields.get(b"content-type", b"")}, body
        if not http[b"content-type"].lower().startswith(tuple(name.encode() for name in _HTML)):
            return None
    elif kind == b"response":
        http, payload = _response(body)
    else:
        return None
    content_type, _, parameters = http.get(b"content-type", b"text/html").decode("latin-1").partition(";")
    if content_type.strip().lower() not in _HTML:
        raise _Undecodable("not_html", f"The content type is {content_type.strip()[:80] or 'empty'}.")
    if http.get(b"transfer-encoding", b"").lower() == b"chunked":
        payload = _dechunked(payload)
    for encoding in reversed(http.get(b"content-encoding", b"").decode("latin-1").lower().split(",")):
        payload = _decoded(encoding.strip(), payload, config.max_document_bytes)
    for _ in range(_MOST_CODINGS):  # those that no header names
        named = next((name for magic, name in _CODINGS.items() if payload.startswith(magic)), None)
        payload = _decoded(named or "", payload, config.max_document_bytes)
    if _is_binary(payload, parameters):
        raise _Undecodable("not_html", "The content is not text, though it is called HTML.")
    html = _characters(payload, parameters)
    _check_nesting(html)
    try:
        text = extract_plain_text(html, main_content=True, alt_texts=False, preserve_formatting=True)
    except ValueError as error:
        raise _Undecodable("invalid_html", f"The page cannot be parsed: {error}.") from None
    return text.encode("utf-8", "replace")


def _response(body: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Header fields and payload of a successful response of HTTP, whose lines may end in LF alone."""
    end = _EMPTY_LINE.search(body)
    head = body[: end.start()] if end else body
    status = head.split(b"\n", 1)[0].split()
    if not end or len(status) < 2 or not status[0].startswith(b"HTTP/") or not status[1].isdigit():
        raise _Undecodable("invalid_http", "The response is not HTTP.")
    if not status[1].startswith(b"2"):
        raise _Undecodable("http_status", f"The status is {status[1].decode()}.")
    return _fields(head), body[end.end() :]


def _is_binary(payload: bytes, parameters: str) -> bool:
    """Whether many of the first bytes are control characters that no text has."""
    start = payload[:_PROBE]
    if "utf-16" in parameters.lower() or start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False
    return len(start) - len(start.translate(None, _CONTROLS)) > len(start) / 50


def _check_nesting(html: str) -> None:
    """Raise _Undecodable for a page whose elements are open in such numbers that parsing takes minutes.

    Time grows with the square of the elements that are open at once. What a page gives must not depend on how
    fast a machine is, so these are counted, not seconds.
    """
    if html.count("<") <= _FEW_TAGS:
        return
    tags = [tag.lower() for tag in _TAG.findall(html)]
    for names, wanted, most in (
        (_FORMATTING, True, _MOST_FORMATTING),
        (_CHEAP, False, _MOST_DEPTH),
    ):
        chosen = [tag for tag in tags if (tag.lstrip("/") in names) == wanted]
        steps = np.array([-1 if tag[0] == "/" else 1 for tag in chosen], np.int64)
        if len(steps) <= most:
            continue
        depth = np.cumsum(steps)
        depth -= np.minimum(np.minimum.accumulate(depth), 0)
        if wanted and 3 * len(set(_FORMATTING_TAG.findall(html))) <= most:
            continue  # a parser keeps three of the same
        if depth.max() > most or depth.sum() > _MOST_STEPS:
            raise _Undecodable("html_too_deep", f"{int(depth.max())} elements of the page are open at once.")


def _dechunked(payload: bytes) -> bytes:
    """The body of a chunked transfer (RFC 9112, 7.1); as it is where a crawler has stored it joined."""
    chunks: list[bytes] = []
    at = 0
    while True:
        end = payload.find(b"\r\n", at)
        try:
            size = int(payload[at:end].split(b";")[0], 16) if end >= 0 else -1
        except ValueError:
            size = -1
        if size < 0:
            if at == 0:
                return payload
            raise _Undecodable("transfer_encoding", "The chunks of the response make no sense.")
        if size == 0:
            return b"".join(chunks)
        chunks.append(payload[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


def _decoded(encoding: str, payload: bytes, limit: int) -> bytes:
    """The payload without its content encoding; as it is where a crawler has stored it decoded."""
    if encoding in ("", "identity", "none"):
        return payload
    try:
        if encoding in ("gzip", "x-gzip", "deflate"):
            try:
                content, whole = _inflated(payload, 47, limit)
            except zlib.error:
                if encoding != "deflate":
                    raise
                content, whole = _inflated(payload, -15, limit)
        elif encoding == "br":
            unbrotli = brotli.Decompressor()
            content = unbrotli.process(payload, output_buffer_limit=limit + 1)
            whole = unbrotli.is_finished()
        elif encoding == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(payload) as reader:
                content = reader.read(limit + 1)
            whole = bool(content)
        else:
            return payload  # as browsers do with what they do not know
    except _ERRORS as error:
        if payload.lstrip()[:1] == b"<":
            return payload
        raise _Undecodable("content_encoding", f"The content is not {encoding}: {error}.") from None
    if len(content) > limit:
        raise _Undecodable("too_long", f"The page has over {limit} bytes, which max_document_bytes is.")
    if not whole:
        raise _Undecodable("content_encoding", f"The {encoding} content ends early.")
    return content


def _inflated(payload: bytes, kind: int, limit: int) -> tuple[bytes, bool]:
    """What zlib makes of all members, down to just over `limit` bytes, and whether the last is whole."""
    held: list[bytes] = []
    room = limit + 1
    while True:
        decoder = zlib.decompressobj(kind)
        held.append(decoder.decompress(payload, room))
        room -= len(held[-1])
        payload = decoder.unused_data
        if not decoder.eof or room <= 0 or not payload.startswith(decompress.GZIP_DEFLATE_MAGIC):
            return b"".join(held), decoder.eof


def _characters(payload: bytes, parameters: str) -> str:
    """A page as characters, by the encoding that the response, the page or its bytes name."""
    named = [item.partition("=")[2] for item in parameters.split(";") if "charset" in item.lower()]
    label = named[0].strip(" \"'") if named else ""
    meta = _META.search(payload[:_PROBE])
    inside = meta[1].decode("latin-1") if meta else ""
    for name in (label, inside, "iso-2022-jp" if b"\x1b$" in payload else ""):
        if name.lower() in _SEVEN_BIT and payload.isascii():
            try:
                return payload.decode(_SEVEN_BIT[name.lower()])
            except UnicodeError:
                continue
    encoding = map_encoding_to_html5(label, False) if label else None
    if encoding == "cp1252" and inside:
        # Servers name Latin-1 for all pages, whatever these say of themselves.
        encoding = map_encoding_to_html5(inside, False) or encoding
    try:
        # Bytes that are UTF-8 are hardly ever meant as anything else.
        return payload.decode() if encoding is None else bytes_to_str(payload, encoding, "strict", ())
    except (UnicodeError, LookupError):
        encoding = detect_encoding(payload, from_html_meta=True) or "utf-8"
    try:
        return bytes_to_str(payload, encoding, "replace", ("utf-8", "cp1252"))
    except LookupError:  # an encoding of the web that Python does not have
        return bytes_to_str(payload, "utf-8", "replace", ("cp1252",))
