"""Fixtures of all tests, the marks by which tests are chosen, and what a unit test may not import."""

import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "numba"))

import pytest

import base  # noqa: F401 - before numba
from tests.helpers import late, selection, stand_in

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
STAND_IN = os.environ.get("PILEDRIVER_DATA") == "stand-in" or not SHARED_DATA.is_dir()
"""Whether tests use generated data: where the real data is absent, and where one asks for it."""
HEAVY = {"ray", "torch"}
"""What a unit test does not import."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests; then `-m` chooses among them."""
    for item in items:
        for mark in sorted(selection.marks(item)):
            item.add_marker(mark)


def pytest_collection_finish() -> None:
    """A test module that imports Ray or torch when it is collected costs every run seconds, and hides what
    unit tests import."""
    if early := HEAVY & sys.modules.keys():
        names = ", ".join(sorted(early))
        raise pytest.UsageError(f"a test module imports {names} at once; let it do so below `if RUNNING:`")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Do the late imports of a test's module before its fixtures are made."""
    if isinstance(item, pytest.Function):
        late.import_now(item.module)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A unit test that imports Ray or torch fails: it lacks a mark, or a module imports too much."""
    before = HEAVY & sys.modules.keys()
    yield
    unit = not any(item.get_closest_marker(name) for name in ("ray", "train", "gpu", "slow"))
    if unit and (more := HEAVY & sys.modules.keys() - before):
        pytest.fail(f"a test without a mark imports {', '.join(sorted(more))}")


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
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """../shared/data, or what stands in for it: the same folders, generated (tests/helpers/stand_in.py)."""
    if not STAND_IN:
        return SHARED_DATA
    folder = tmp_path_factory.mktemp("stand-in")
    stand_in.write(folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """../shared/data, for figures that are those of the real data alone; skipped where it is not there."""
    if STAND_IN:
        pytest.skip("needs the real data in ../shared/data")
    return SHARED_DATA


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store, which takes seconds to make: tests copy it to where they want one."""
    from pipelines.runtime import tracking

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracking.client_of(tracking.Tracking(f"sqlite:///{path}", "template", None)).search_experiments()
    return path


@pytest.fixture(scope="session")
def gpu() -> None:
    """Skips the test where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")


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
