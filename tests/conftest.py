"""Fixtures shared by all tests: the real data beside the checkout, and one local Ray cluster."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "numba"))

import pytest

import base  # noqa: F401 - before numba

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def ray_folder() -> Iterator[None]:
    """Ray's files are in a folder of this run, where no other run has left the address of its cluster.

    Ray Train asks a cluster that is gone, if one has, and takes twelve seconds more to end.
    """
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder
        yield
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """../shared/data; the test is skipped where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not there")
    return SHARED_DATA


@pytest.fixture(scope="module")
def ray_cluster() -> None:
    """A local Ray cluster of two CPUs.

    It stays for the modules after this one, because a start takes ten seconds; tests on a cluster of their
    own shut it down.
    """
    import ray

    from pipelines.runtime.cluster import start_local

    if not ray.is_initialized():
        start_local(2, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
