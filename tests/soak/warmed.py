"""Imports and compiles what the commands of draws need, when it is imported (`tests.soak.warm`)."""

import tempfile
from pathlib import Path

import torch

import base  # noqa: F401 - before numba
import model.train  # noqa: F401
from tests.helpers import builds

torch.set_num_threads(1)
with tempfile.TemporaryDirectory(prefix="warm-") as _folder:
    _raw, _storage = Path(_folder, "raw"), Path(_folder, "storage")
    builds.write(_raw / "books" / "0.jsonl", builds.documents(1, 40))
    builds.write(_raw / "web" / "0.jsonl", builds.documents(2, 40))
    builds.run(builds.config(_raw, _storage))
