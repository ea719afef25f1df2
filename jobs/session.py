"""What every command shares: its options, its session on the cluster, its exit code.

A command is 0 when it did what it was asked, DAMAGED when it found damage, MISTAKE when the person can mend
what went wrong, and FAILED for what nobody foresaw.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from base.credentials import hide
from base.errors import mistake

if TYPE_CHECKING:
    from jobs.progress import StageProgress
    from pipelines.config import Config
    from pipelines.runtime.executor import OnRay

DAMAGED = FAILED = 1
MISTAKE = 2

ConfigOption = Annotated[str, typer.Option("--config", help="Configuration file (YAML; any fsspec URL).")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one field: section.field=value. May be repeated."),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", help="Show the logs of Ray, DeepSpeed and MLflow in full.")
]


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a command works with while its session lasts."""

    executor: "OnRay"
    progress: "StageProgress"


@contextlib.contextmanager
def session(
    settings: "Config", *, verbose: bool, needs_cluster: bool = True, builds: bool = False
) -> Iterator[Session]:
    """The executor and the progress of a command; whatever happens within, the terminal is whole after it.

    needs_cluster: whether there is anything to do. A cluster that this process is connected to is taken.
    builds: whether documents are read, so that kernels are needed.
    """
    import ray

    from jobs.progress import StageProgress
    from pipelines.runtime import cluster, kernels
    from pipelines.runtime.executor import OnRay

    compiles = builds and needs_cluster and not kernels.compiled()
    if compiles:
        print(
            f"compiling kernels in {kernels.cache_folder()}, once a machine: the first stage takes "
            f"{kernels.SECONDS} longer",
            flush=True,
        )

    if needs_cluster and not ray.is_initialized():
        cluster.start(settings.ray, verbose)
    progress = StageProgress(phases=verbose)
    try:
        yield Session(executor=OnRay(workers=settings.ray.workers), progress=progress)
        if compiles:
            kernels.note_compiled()
    finally:
        progress.close()


def tell(sentence: str) -> None:
    """Say whom the command waits for."""
    print(sentence, file=sys.stderr, flush=True)


def run(command: Callable[..., None], program: str | None = None, arguments: list[str] | None = None) -> None:
    """Run one command function as the program and exit with its code.

    program, arguments: what `--help` calls it and what it is given; those of this process by default.

    A UserError, or a storage that cannot be used, becomes one line on standard error. A traceback shows no
    credentials of URLs.
    """
    if "--verbose" not in sys.argv:
        quiet()
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app(args=arguments, prog_name=program)
    except Exception as error:
        if (sentence := mistake(error)) is not None:
            print(f"error: {sentence}", file=sys.stderr)
            sys.exit(MISTAKE)
        print(hide(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(FAILED)


def quiet() -> None:
    """Silence the libraries' chatter in this process and the workers it starts."""
    for name, value in {
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONWARNINGS": "ignore",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "DEEPSPEED_LOG_LEVEL": "error",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger().setLevel(logging.WARNING)
    for name in ("ray", "ray.data", "ray.train", "DeepSpeed", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
