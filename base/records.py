"""The base of every record that is written as JSON: typed, checked when it is read, never changed."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from base import files, seals
from base.damage import DamagedError, damaged, sound
from base.errors import UserError


class Record(BaseModel):
    """A record: unknown and missing fields are mistakes, and values never change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_by_name=True,
        ser_json_inf_nan="constants",
    )
    has_seal: ClassVar[bool] = True
    """False for a file whose bytes are fixed, or that a person may write."""
    has_place: ClassVar[bool] = False
    """Whether the seal is of the file's name too: the file is never moved but with all of its corpus."""
    needs_seal: ClassVar[bool] = False
    """Whether a file without a seal is damaged."""

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields in order, without those that do not apply (None by default)."""
        values: dict[str, Any] = handler(self)
        for name, field in type(self).model_fields.items():
            if not field.is_required() and values.get(name, 0) is None:
                del values[name]
        return values

    def to_json(self) -> dict[str, Any]:
        """The JSON value of the record, fields in order, without those that are None by default."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def from_json(cls, value: Any, place: str) -> Self:
        """The record of a JSON value that was read from `place`.

        Raises DamagedError that names place and field.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "it"
            raise damaged(place, f"{field}: {first['msg']}", "damaged or of another version") from None
        except RecursionError:
            raise damaged(place, "it is nested too deeply") from None

    @classmethod
    def read(cls, url: str) -> Self:
        """The record of a JSON file. Raises DamagedError that names it, MissingError if there is none."""
        value = files.read_json(url)
        with sound(url):
            value = seals.unsealed(value, cls._place(url), needed=cls.needs_seal)
        return cls.from_json(value, url)

    @classmethod
    def found(cls, url: str) -> Self | None:
        """The record of a JSON file that can be read; None for one that is damaged or not there."""
        try:
            return cls.read(url)
        except DamagedError:
            return None

    @classmethod
    def found_or_aside(cls, url: str) -> Self | None:
        """As `found`; a damaged file is put aside under another name, so that one can be created again."""
        found = cls.found(url)
        if found is None and files.exists(url):
            files.put_aside(url)
        return found

    def write(self, url: str) -> None:
        """Write the record as a JSON file, with a seal (base/seals.py) unless the class has none."""
        files.write_bytes(url, self.content(url))

    def create(self, url: str) -> None:
        """Write the record as a JSON file that is never replaced, and on the disk when this returns.

        Raises UserError if there is one with other content.
        """
        if not files.create(url, self.content(url)):
            raise UserError(f"{url} is there already, and is another one: it was not replaced")

    def content(self, url: str) -> bytes:
        """The JSON file that is written at a URL."""
        value = self.to_json()
        return files.json_bytes(seals.sealed(value, self._place(url)) if self.has_seal else value)

    @classmethod
    def _place(cls, url: str) -> bytes:
        """What the seal names besides the content."""
        return seals.name_of(url) if cls.has_place else b""


class Written(Record):
    """A local file of work as it was written."""

    bytes: int
    digest: str | None = None
    """xxh3-128, hex, of a file that has no seal itself."""

    @classmethod
    def of(cls, url: str, *, digest: bool = False) -> Self:
        """What is at a local URL."""
        return cls(bytes=files.size(url), digest=files.digest(url) if digest else None)

    def holds(self, url: str) -> bool:
        """Whether the file is there as it was written."""
        try:
            same = files.size(url) == self.bytes
            return same and (self.digest is None or files.digest(url) == self.digest)
        except FileNotFoundError:
            return False


class Mark(Record):
    """What a finished task leaves: written last, and believed while the files that it names are there.

    Of remote files nothing is noted: they are there as a whole or not at all, and asking is a request each.
    """

    has_place: ClassVar[bool] = True
    needs_seal: ClassVar[bool] = True
    made: dict[str, Written] = {}
    """The local files that the task made, by kind."""

    @classmethod
    def finished(cls, url: str, place: Callable[[str], str]) -> Self | None:
        """The mark at a URL; None if it cannot be read, or a file of it is not what it was.

        `place` gives the URL of each kind of file.
        """
        mark = cls.found(url)
        if mark is None or not all(written.holds(place(kind)) for kind, written in mark.made.items()):
            return None
        return mark


def made(
    place: Callable[[str], str], kinds: Iterable[str], unsealed: Iterable[str] = ()
) -> dict[str, Written]:
    """What a mark says of the files of a task by their kinds, of which some have no seal themselves."""
    if files.local_path(place("")) is None:
        return {}
    return {kind: Written.of(place(kind), digest=kind in unsealed) for kind in (*kinds, *unsealed)}
