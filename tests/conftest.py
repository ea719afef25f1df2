"""Fixtures shared by all tests: the real data beside the checkout, and one local Ray cluster."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "numba"))

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """../shared/data; the test is skipped where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not there")
    return SHARED_DATA


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of two CPUs."""
    import ray

    from pipelines.cluster import start_local

    start_local(2)
    yield
    ray.shutdown()
