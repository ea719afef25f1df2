"""What the corpus commands write is what they wrote when tests/golden.json was made."""

import json
from pathlib import Path

import pytest

from tests import golden


@pytest.mark.ray
@pytest.mark.slow
def test_the_golden_bytes_of_a_corpus(real_data: Path) -> None:
    expected = json.loads(golden.GOLDEN.read_text())
    if expected["packages"] != golden.packages():
        pytest.skip("tests/golden.json was made with other versions of the packages that decide bytes")
    assert golden.compare(expected, {"packages": golden.packages(), "files": golden.build()}) == []
