"""What every command shares: options, quiet libraries, one sentence and exit code 2 for mistakes."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from base.credentials import hide
from base.errors import UserError, mistake

ConfigOption = Annotated[str, typer.Option("--config", help="Configuration file (YAML; any fsspec URL).")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one field: section.field=value. May be repeated."),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", help="Show the logs of Ray, DeepSpeed and MLflow in full.")
]


def run(command: Callable[..., None]) -> None:
    """Run one command function as the program.

    A UserError, or a storage that cannot be used, becomes one line on standard error and exit code 2. A
    traceback shows no credentials of URLs.
    """
    if "--verbose" not in sys.argv:
        quiet()
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app()
    except Exception as error:
        if (sentence := mistake(error)) is not None:
            print(f"error: {sentence}", file=sys.stderr)
            sys.exit(2)
        print(hide(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


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


def check_storage(url: str) -> None:
    """Raise UserError if nothing can be written below `url`, or it would vanish with a Ray job."""
    from base import files

    if "/runtime_resources/working_dir_files/" in url:
        raise UserError(
            f"storage = {url!r} lies in the job's own copy of the working directory; "
            "under `ray job submit` give an absolute path or URL: --set storage=/data/…"
        )
    probe = files.join(url, f".writable-{os.getpid()}")
    try:
        files.write_bytes(probe, b"")
        files.remove(probe)
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"storage = {url!r} cannot be written: {reason}") from None
