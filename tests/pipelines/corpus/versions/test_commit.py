"""The tables that a version is committed with."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base import files
from base.claims import ClaimsConfig, held
from base.errors import UserError
from pipelines.corpus.versions.commit import Join, join_tables


def test_tables_of_parts_are_joined_and_one_of_another_kind_is_named(tmp_path: Path) -> None:
    parts = [str(tmp_path / f"{name}.parquet") for name in "abc"]
    for number, part in enumerate(parts):
        reason = pa.array([f"reason {number}"]).dictionary_encode()
        files.write_parquet(part, pa.table({"record": [number], "reason": reason}))
    with held(str(tmp_path / "version"), "test", ClaimsConfig()) as claim:
        task = Join(str(tmp_path / "version" / "rejects.parquet"), parts, claim)
        table = pq.read_table(join_tables(task))
        assert table.to_pydict() == {
            "record": [0, 1, 2],
            "reason": ["reason 0", "reason 1", "reason 2"],
        }
        files.write_parquet(parts[1], pa.table({"record": [[1]], "reason": ["reason 1"]}))
        with pytest.raises(UserError, match=r"b.parquet is damaged: its columns are not .*a.parquet"):
            join_tables(task)
