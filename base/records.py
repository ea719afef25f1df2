"""The base of every record that is written as JSON: typed, checked when it is read, never changed."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from base import files
from base.errors import UserError


class Record(BaseModel):
    """A record: unknown and missing fields are mistakes, and values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, validate_by_name=True
    )

    def to_json(self) -> dict[str, Any]:
        """The JSON value of the record, fields in order, without those that are None by default."""
        values: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return {
            name: value
            for (name, value), field in zip(values.items(), type(self).model_fields.values(), strict=True)
            if value is not None or field.is_required()
        }

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
