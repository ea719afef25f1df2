"""Ordinals of documents that share their id: those of one pass in order, however the tasks are divided."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from base import files
from dedup import hashing
from pipelines.corpus.stages import identical
from pipelines.runtime.executor import InProcess


@pytest.mark.parametrize("ids_per_task", [2**23, 40, 7])
def test_ordinals_count_the_documents_before_each_that_share_its_id(
    ids_per_task: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = np.random.default_rng(1)
    sizes = [0, 9, 1, 0, 30, 50, 3, 0]
    values = [choose.integers(0, 40, size).astype(str).tolist() for size in sizes]
    urls = []
    for number, texts in enumerate(values):
        urls.append(str(tmp_path / f"{number}.parquet"))
        ids = hashing.hash128(pa.array(texts, pa.large_string()))
        files.write_parquet(urls[-1], pa.table({"document_id": ids}))
    reads: Counter[str] = Counter()
    read = files.read_parquet

    def counted(url: str, columns: list[str] | None = None) -> pa.Table:
        reads[url] += 1
        return read(url, columns)

    monkeypatch.setattr(files, "read_parquet", counted)
    monkeypatch.setattr(identical, "IDS_PER_TASK", ids_per_task)
    found = identical.number_identical(urls, sizes, str(tmp_path / "work"), InProcess())
    assert reads == dict.fromkeys(urls, 1)
    seen: Counter[str] = Counter()
    for number, texts in enumerate(values):
        expected = []
        for text in texts:
            expected.append(seen[text])
            seen[text] += 1
        assert identical.ordinals_of(found[number], number, len(texts)).tolist() == expected
    written = {path: path.read_bytes() for path in (tmp_path / "work").rglob("*.parquet")}
    assert len(written) == {2**23: 3, 40: 8, 7: 26}[ids_per_task]
    for path in sorted(written)[::2]:
        path.unlink()
    assert identical.number_identical(urls, sizes, str(tmp_path / "work"), InProcess()) == found
    assert {path: path.read_bytes() for path in written} == written
