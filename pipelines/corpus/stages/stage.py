"""What a stage of a build is: a frozen value that knows what its outputs depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from base import files
from base.settings import Section

Settings = TypeVar("Settings", bound=Section)


def unkeyed(**options: Any) -> Any:
    """A field that says where and how much is done, not what comes out; `options` as `field` has them."""
    return field(metadata={"keyed": False}, **options)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: its fields are the settings that its tasks get and the results that it starts from.

    `run(executor, progress)`, which each stage has, gives a typed result.
    """

    name: ClassVar[str]
    """The folder of its work, and what progress calls it."""
    version: ClassVar[int]
    """Raised when the code changes what comes out."""

    @cached_property
    def key(self) -> str:
        """What the outputs depend on: name and version of the code, and every field that is not `unkeyed`."""
        given = {
            item.name: keyed(getattr(self, item.name))
            for item in fields(self)
            if item.metadata.get("keyed", True)
        }
        return files.key_of(self.name, self.version, given)


def keyed(value: Any) -> Any:
    """A JSON value of what a key is made of: of settings all fields, of a result its own key.

    A key of None says that nothing depends on the result.
    """
    if isinstance(value, Section):
        return value.model_dump(mode="json", warnings=False)
    if isinstance(value, Mapping):
        return {name: keyed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [keyed(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    key: str | None = value.key
    return key


def only(settings: Settings, *names: str) -> Settings:
    """A section of which just these fields are as configured: tasks that get it depend on no other."""
    others = {
        name: None if info.is_required() else info.get_default(call_default_factory=True)
        for name, info in type(settings).model_fields.items()
        if name not in names
    }
    return settings.model_copy(update=others)
