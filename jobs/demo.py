"""The whole chain on a local Ray cluster, from raw text to a refresh.

Every command is launched with `ray job submit`, as it would be on a real cluster. Finished work is found
again, so that a second demo repeats nothing.
"""

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tenacity
import typer

from jobs.session import SetOption, run

CONFIG = "configs/quickstart.yaml"
CHATTER = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+\t(INFO|SUCC|WARNING) |Running entrypoint for job ")
ROOT = Path(__file__).parents[1]


def main(
    storage: Annotated[str, typer.Option(help="Local folder for everything.")] = str(
        ROOT / "runs" / "quickstart"
    ),
    set_: SetOption = None,
) -> None:
    r"""Turn the text that every machine has after the installation into a trained model.

    \b
    Examples:
      python -m jobs.demo
      python -m jobs.demo --storage /tmp/longer --set train.steps=1000
    """
    begin = time.monotonic()
    raw = f"{storage}/raw"
    _step("collect: text of the installed packages", _command("collect", "--folder", raw, "--batch", "0"))
    with _cluster() as address:
        common = ["--config", CONFIG]
        for override in [f"storage={storage}", *(set_ or [])]:
            common += ["--set", override]
        _submit(address, "prepare: raw text to a corpus version", "prepare", *common)
        _submit(address, "train: a NeoX model on 2 workers", "train", *common, "--corpus", "v0001")
        _submit(address, "evaluate: held-out documents", "evaluate", *common)
        _submit(address, "infer: completions of prompts", "infer", *common)
        _step("collect: new files arrive", _command("collect", "--folder", raw, "--batch", "1"))
        _submit(address, "refresh: the next corpus version", "refresh", *common)
    _report(storage, time.monotonic() - begin)


def _command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"jobs.{name}", *arguments]


def _step(title: str, command: list[str]) -> None:
    print(f"\n== {title}", flush=True)
    begin = time.monotonic()
    finished = subprocess.run(command, cwd=ROOT)
    if finished.returncode:
        raise SystemExit(finished.returncode)
    print(f"   {time.monotonic() - begin:.0f} s", flush=True)


def _submit(address: str, title: str, name: str, *arguments: str) -> None:
    """Run one command as a Ray job; shows what it prints."""
    ray = str(Path(sys.executable).with_name("ray"))
    submit = [ray, "job", "submit", "--address", address, "--working-dir", ".", "--log-style", "record"]
    print(
        f"\n== {title}\n   ray job submit --working-dir . -- python -m jobs.{name} {' '.join(arguments)}",
        flush=True,
    )
    begin = time.monotonic()
    with subprocess.Popen(
        [*submit, "--", "python", "-m", f"jobs.{name}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not _chatter(line):
                print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    print(f"   {time.monotonic() - begin:.0f} s", flush=True)


def _chatter(line: str) -> bool:
    """Whether a line of `ray job submit` is its own talk, not the command's."""
    return not line.strip() or bool(CHATTER.match(line))


@contextlib.contextmanager
def _cluster() -> Iterator[str]:
    """A local Ray cluster of this machine's cores on free ports; yields the address for jobs."""
    gcs, dashboard, agent = _free_ports(3)
    # Jobs call `python`, and head and clients share a token that lives as long as this cluster.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = str(Path(sys.executable).with_name("ray"))
    log = ROOT / ".cache" / "ray-head.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as output:
        head = subprocess.Popen(
            [
                ray,
                "start",
                "--head",
                "--block",
                f"--port={gcs}",
                f"--dashboard-port={dashboard}",
                # The default is one number for all clusters of a machine.
                f"--dashboard-agent-listen-port={agent}",
                "--disable-usage-stats",
                f"--num-cpus={max(2, os.cpu_count() or 2)}",
            ],
            # When it is ended, no job runs; it would wait half a minute for actors that outlive theirs.
            env=os.environ | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for(dashboard, head, log)
        yield address
    finally:
        head.terminate()
        head.wait(timeout=60)


def _wait_for(port: int, head: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if head.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            _wait_for_agent(f"http://127.0.0.1:{port}")
            return
        time.sleep(0.5)
    raise SystemExit(f"the local Ray cluster did not start:\n{log.read_text()[-2000:]}")


def _wait_for_agent(address: str) -> None:
    """Submit a job that does nothing: on a slow machine what runs jobs is there long after the port."""
    from ray.job_submission import JobSubmissionClient

    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RuntimeError),
        stop=tenacity.stop_after_delay(120),
        wait=tenacity.wait_fixed(1),
        reraise=True,
    )
    again(JobSubmissionClient(address).submit_job, entrypoint="true")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _report(storage: str, seconds: float) -> None:
    """Print what was made and how to open it."""
    from base import manifest
    from pipelines.inference import models

    versions = manifest.versions(storage)
    model = models.find(storage, None)
    result = model.result
    assert result is not None
    print(f"\n== what was made in {seconds / 60:.1f} minutes")
    for version in versions:
        tokens = version.manifest.tokens
        print(f"   corpus {version.name}: {tokens:,} tokens  {version.url}/report.html")
    print(
        f"   model {model.name}: loss {result.first_loss:.3f} at the start, "
        f"{result.last_loss:.3f} at the end; unigram entropy {result.unigram_entropy:.3f} nats"
    )
    print(f"   weights (Hugging Face format): {model.url}")
    for results in sorted(Path(storage, "inference").glob("*/results.jsonl")):
        print(f"   completions: {results}")
        for line in results.read_text().splitlines()[:3]:
            row = json.loads(line)
            print(f"      {row['prompt']!r} → {row.get('completion', row.get('error'))[:90]!r}")
    print(
        f"\n   every run: {Path(sys.executable).with_name('mlflow')} ui --backend-store-uri sqlite:///{storage}/mlflow.db"
    )
    print(f"   corpus report: open {versions[0].url}/report.html")


if __name__ == "__main__":
    run(main)
