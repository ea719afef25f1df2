"""Copies of remote shards on this machine."""

import os
import tempfile

import xxhash

from base import files


class ShardCache:
    """Local copies of remote shards, the least recently read ones removed above `limit` bytes."""

    def __init__(self, folder: str | None = None, limit: int = 64 * 2**30) -> None:
        """`folder` may be shared by the processes of a machine."""
        self.folder = folder or os.path.join(tempfile.gettempdir(), f"piledriver-shards-{os.getuid()}")
        self.limit = limit

    def fetch(self, url: str, digest: str, size: int) -> str:
        """The path of a local copy of `url`, downloaded if there is none of `size` bytes."""
        name = xxhash.xxh3_128_hexdigest(f"{url}\0{digest}".encode()) + ".arrow"
        path = os.path.join(self.folder, name)
        try:
            if os.stat(path).st_size == size:
                os.utime(path)
                return path
        except FileNotFoundError:
            pass
        filesystem, remote = files.split(url)
        with files.atomic_writer(path) as target, filesystem.open(remote, "rb") as content:
            while piece := content.read(8 * 2**20):
                target.write(piece)
        self._shrink(path)
        return path

    def _shrink(self, keep: str) -> None:
        """Mapped files may go: their pages stay until the mapping is closed, see `Corpus.close_removed`."""
        entries = []
        for entry in os.scandir(self.folder):
            if entry.name.endswith(".arrow") and not entry.name.startswith(files.TEMPORARY):
                try:
                    status = entry.stat()
                except FileNotFoundError:  # another process removed it
                    continue
                entries.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                return
            if path != keep:
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    continue
                total -= size
