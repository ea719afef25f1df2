"""Credentials in URLs: they are used to read, and `***` stands for them in all that is written or printed.

Credentials are the user and password before a host, and the values of a query that authenticate: keys,
tokens, signatures, and with a signature what it is renewed with. A user without a password is one on the web
only; elsewhere it may be what is read (abfs://container@account).
"""

import re
from collections.abc import Callable
from typing import Any

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>\\]+")
_PASSWORD = re.compile(
    r"://[^/?#@]*:[^/?#]*@"
    # No port, so a password: one that is written without escapes may hold what ends a host.
    r"|://[^/?#@]*:(?!\d{1,5}(?:[/?#]|$))[^@]*@(?:[^/?#@]*@)*"
    r"|(?<=http)://[^/?#]*@|(?<=https)://[^/?#]*@"
)
_DATABASE = re.compile(
    r"[^:]*(?:sql|oracle|cockroachdb|redis|mongodb|amqp)[^:]*(://)[^/?#@]*:[^@]*@(?:[^/?#@]*@)*"
)
_SECRET = re.compile(
    r"sig|code|.*(signature|token|secret|passw(or)?d|pwd|credentials?|key|auth|authorization|access_?id)"
    r"|.*(jwt|session|session_?id|cookie|assertion|saml(request|response)?)"
    r"|key-pair-id|.*access_?key_?id|x-(amz|goog)-.*",
    re.IGNORECASE,
)
_RENEWED = re.compile(r"expires|policy|s[evprtk]|spr|sip|sk(oid|tid|t|e|s|v)", re.IGNORECASE)
"""What changes with every signature of the same file: CloudFront's and Azure's parameters."""


def hide(text: str) -> str:
    """`text` with `***` for the credentials of the URLs in it; hiding twice is hiding once."""
    return _URL.sub(_hidden, text) if "://" in text else text


def _hidden(match: re.Match[str]) -> str:
    url = match[0]
    if found := _DATABASE.match(url):
        url = f"{url[: found.start(1)]}://***@{url[found.end() :]}"
    else:
        url = _PASSWORD.sub("://***@", url, count=1)
    place, mark, query = url.partition("?")
    fields = [field.partition("=") for field in query.split("&")]
    if not any(separator and _SECRET.fullmatch(name) for name, separator, _ in fields):
        return url
    shown = [
        f"{name}=***"
        if separator and (_SECRET.fullmatch(name) or _RENEWED.fullmatch(name))
        else name + separator + value
        for name, separator, value in fields
    ]
    return place + mark + "&".join(shown)


def hidden(value: Any) -> Any:
    """A JSON value with the credentials in its strings hidden."""
    return _each_string(value, hide)


def restored(value: Any, given: Any) -> Any:
    """A JSON value of `hidden`, with the credentials that the strings of `given` have."""
    known: dict[str, str] = {}

    def note(text: str) -> str:
        known[hide(text)] = text
        return text

    _each_string(given, note)
    return _each_string(value, lambda text: known.get(text, text))


def _each_string(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {name: _each_string(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_each_string(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
