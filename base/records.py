"""The base of every record that is written as JSON: typed, checked when it is read, never changed."""

from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from base import files
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

        Raises UserError that names place and field.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "it"
            raise UserError(f"{place} is damaged or of another version: {field}: {first['msg']}") from None

    @classmethod
    def read(cls, url: str) -> Self:
        """The record of a JSON file. Raises UserError that names it; FileNotFoundError if there is none."""
        try:
            value = files.read_json(url)
        except ValueError as error:
            raise UserError(f"{url} is damaged: it is no JSON ({error})") from None
        return cls.from_json(value, url)

    def write(self, url: str) -> None:
        """Write the record as a JSON file."""
        files.write_json(url, self.to_json())

    def create(self, url: str) -> None:
        """Write the record as a JSON file that is never replaced, and on the disk when this returns.

        Raises UserError if there is one with other content.
        """
        if not files.create(url, files.json_bytes(self.to_json())):
            raise UserError(f"{url} is there already, and is another one: it was not replaced")
