"""docs/reference/configuration.md is what the models say."""

import contextlib
import io
from pathlib import Path

from jobs import reference


def test_the_reference_is_current() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        reference.main()
    written = (Path(__file__).parents[2] / "docs" / "reference" / "configuration.md").read_text()
    assert printed.getvalue() == written, "run `make reference`"
