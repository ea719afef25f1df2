"""Filters and edits of somebody else, which the section `plugins` names by import path.

Both are called with a column of texts, some thousands at a time, in any order and in several processes, and
must give the same for the same text. They have two attributes: `name` (lower-case letters, digits and
underscores) and `version` (a number or a string). Whoever changes what the code gives changes the version, so
that what was made with the old one is made again.

A filter takes a pyarrow.LargeStringArray and returns for each text the reason for which it is dropped (an
array of strings) or null for one that stays; or a pair of that and what was measured (an array of numbers).

An edit takes a pyarrow.LargeStringArray and returns one of as many texts, none of them null. A document of
which nothing is left is dropped.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import imports
from base.errors import UserError
from pipelines.corpus.text.settings import PluginsConfig


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A filter or an edit, and what tells one state of it from another."""

    path: str
    name: str
    version: int | str
    function: Callable[[pa.LargeStringArray], Any]


def find(path: str) -> Plugin:
    """The plugin that an import path names.

    Raises UserError if it cannot be imported or called, or has no name or version.
    """
    function = imports.named(path)
    if not callable(function):
        raise UserError(f"plugin {path} cannot be called")
    name, version = getattr(function, "name", None), getattr(function, "version", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]+", name):
        raise UserError(f"plugin {path} has name {name!r}; give it an attribute `name` of a-z, 0-9 and _")
    if not isinstance(version, int | str) or isinstance(version, bool):
        raise UserError(
            f"plugin {path} has version {version!r}; give it an attribute `version`, a number or a string"
        )
    return Plugin(path=path, name=name, version=version, function=function)


def check(settings: PluginsConfig) -> None:
    """Raise UserError for a plugin that cannot be used, and for two filters or edits of one name."""
    for kind in ("filters", "edits"):
        found: dict[str, str] = {}
        for plugin in map(find, getattr(settings, kind)):
            other = found.setdefault(plugin.name, plugin.path)
            if other != plugin.path or getattr(settings, kind).count(plugin.path) > 1:
                raise UserError(f"plugins.{kind}: {other} and {plugin.path} have the same name {plugin.name}")


def describe(settings: PluginsConfig) -> dict[str, list[dict[str, Any]]]:
    """What a corpus depends on, as JSON: path, name and version of each; nothing for a kind without any."""
    return {
        kind: [
            {"path": plugin.path, "name": plugin.name, "version": plugin.version}
            for plugin in map(find, paths)
        ]
        for kind, paths in settings.model_dump().items()
        if paths
    }


def measure(texts: pa.LargeStringArray, filters: list[str]) -> dict[str, pa.Array]:
    """Columns of what the filters say of each text: plugin_reason_<name> and plugin_value_<name>.

    A value is NaN where none was measured.
    """
    columns: dict[str, pa.Array] = {}
    for plugin in map(find, filters):
        said = plugin.function(texts)
        reasons, values = said if isinstance(said, tuple) else (said, np.full(len(texts), np.nan))
        columns[f"plugin_reason_{plugin.name}"] = _column(plugin, reasons, len(texts), pa.string())
        columns[f"plugin_value_{plugin.name}"] = _column(plugin, values, len(texts), pa.float64())
    return columns


def decide(attributes: pa.Table, filters: list[str]) -> tuple[pa.StringArray, np.ndarray]:
    """Which documents the filters drop, from the columns of `measure`: (reason or null, value or NaN).

    A reason is plugins.<name>.<what the filter says>; the first filter that drops a document gives it.
    """
    reasons = pa.nulls(attributes.num_rows, pa.string())
    values = np.full(attributes.num_rows, np.nan)
    for plugin in map(find, filters):
        said = attributes[f"plugin_reason_{plugin.name}"].combine_chunks()
        mine = pc.and_(pc.is_null(reasons), pc.is_valid(said))
        named = pc.binary_join_element_wise(f"plugins.{plugin.name}", said, ".")
        reasons = pc.if_else(mine, named, reasons)
        measured = attributes[f"plugin_value_{plugin.name}"].to_numpy()
        values = np.where(mine.to_numpy(zero_copy_only=False), measured, values)
    return reasons, values


def edit(texts: pa.LargeStringArray, path: str) -> pa.LargeStringArray:
    """The texts after one edit."""
    plugin = find(path)
    after = _column(plugin, plugin.function(texts), len(texts), pa.large_string())
    if after.null_count:
        raise UserError(f"plugin {plugin.path} returned null for a text; return an empty one to drop it")
    return after


def _column(plugin: Plugin, returned: Any, size: int, kind: pa.DataType) -> pa.Array:
    """What a plugin returned as a column of `size` values. Raises UserError if it is something else."""
    try:
        column = returned if isinstance(returned, pa.Array | pa.ChunkedArray) else pa.array(returned)
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        text = (pa.string(), pa.large_string(), pa.string_view())
        if kind in text and column.type not in (*text, pa.null()):
            raise TypeError(f"{column.type} is no text")
        column = column.cast(kind)
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"plugin {plugin.path} returned no column of {kind}: {error}") from None
    if len(column) != size:
        raise UserError(f"plugin {plugin.path} returned {len(column)} values for {size} texts")
    return column
