"""What people name in a configuration by its import path."""

import importlib
from typing import Any

from base.errors import UserError


def named(path: str) -> Any:
    """What `package.module:NAME` names. Raises UserError if it cannot be imported or is not there."""
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise UserError(f"{path!r} is no import path; write it as package.module:NAME")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a module of somebody else raises
        raise UserError(f"{path} cannot be imported: {error}") from None
    if not hasattr(found, name):
        raise UserError(f"{path} cannot be imported: {module} has no {name}")
    return getattr(found, name)
