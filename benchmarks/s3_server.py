"""A server of S3's protocol on this machine, and what a client asks of it."""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import fsspec

PORT = 48_123
SLOW_DOWN = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503, "HTTPHeaders": {}}}


@contextmanager
def serving() -> Iterator[None]:
    """A server with an empty bucket named bucket while the block lasts; the environment leads to it."""
    url = f"http://127.0.0.1:{PORT}"
    variables = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": url}
    command = [str(Path(sys.executable).parent / "moto_server"), "--port", str(PORT)]
    with (
        mock.patch.dict(os.environ, variables | {"AWS_DEFAULT_REGION": "us-east-1"}),
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as process,
    ):
        try:
            fsspec.config.set_conf_env(fsspec.config.conf)
            filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
            while True:
                try:
                    filesystem.mkdir("bucket")
                    break
                except Exception:
                    time.sleep(0.5)
            yield
        finally:
            process.kill()


class Requests:
    """Counts of requests, by who makes them and operation; every try is one."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self.who = "driver"
        self.operations: dict[str, Counter[str]] = defaultdict(Counter)
        self.read: Counter[str] = Counter()
        """Bytes of objects that came back."""
        self.written: Counter[str] = Counter()
        """Bytes of objects that were sent."""
        self.failed: Counter[str] = Counter()

    def clear(self) -> None:
        """Begin again at nothing."""
        for counts in (self.operations, self.read, self.written, self.failed):
            counts.clear()

    def total(self, who: str) -> int:
        """Requests of all operations."""
        return sum(self.operations[who].values())


@contextmanager
def counted(requests: Requests, *, delay: float = 0.0, failing: float = 0.0, seed: int = 0) -> Iterator[None]:
    """Count what this process asks of S3 while the block lasts.

    delay: seconds that each request takes longer. failing: the share of requests that a server would refuse
    with 503 Slow Down, which the client makes again.
    """
    from aiobotocore.endpoint import AioEndpoint  # type: ignore[import-untyped]

    respond = AioEndpoint._do_get_response
    choose = random.Random(seed)

    async def watched(self: Any, request: Any, operation: Any, context: Any) -> Any:
        who = requests.who
        requests.operations[who][operation.name] += 1
        if delay:
            await asyncio.sleep(delay)
        if choose.random() < failing:
            requests.failed[who] += 1
            return (SimpleNamespace(status_code=503, headers={}), dict(SLOW_DOWN)), None
        found = await respond(self, request, operation, context)
        response, error = found
        if error is not None or response[0].status_code >= 500:
            requests.failed[who] += 1
        elif operation.name == "GetObject":
            requests.read[who] += int(response[0].headers.get("Content-Length", 0))
        elif operation.name in ("PutObject", "UploadPart"):
            requests.written[who] += int(request.headers.get("Content-Length", 0))
        return found

    with mock.patch.object(AioEndpoint, "_do_get_response", watched):
        yield
