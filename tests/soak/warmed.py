"""Imports and compiles what corpus builds need, when it is imported (`tests.soak.warm`)."""

import logging
import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # of torch, if it is imported

import base  # noqa: F401 - before numba
from tests.helpers import builds

with tempfile.TemporaryDirectory(prefix="warm-") as _folder:
    _raw, _storage = Path(_folder, "raw"), Path(_folder, "storage")
    builds.write(_raw / "books" / "0.jsonl", builds.documents(1, 40))
    builds.write(_raw / "web" / "0.jsonl", builds.documents(2, 40))
    # Without a store of MLflow, which would take seconds to make; that is worth no warning.
    logging.disable(logging.WARNING)
    builds.run(builds.config(_raw, _storage, "tracking.uri=sqlite:////proc/none/mlflow.db"))
    logging.disable(logging.NOTSET)
