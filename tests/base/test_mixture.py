import math
import re

import pytest

from base.errors import UserError
from base.mixture import check_names, check_shares


@pytest.mark.parametrize(
    ("section", "shares", "sentence"),
    [
        ("mixture", {"a": -1.0}, "mixture.a = -1.0: a weight is a finite number and not negative"),
        ("mixture", {"a": math.nan}, "mixture.a = nan: a weight is a finite number and not negative"),
        (
            "mixture_epochs",
            {"a": math.inf},
            "mixture_epochs.a = inf: epochs are a finite number",
        ),
        ("mixture", {"a": 0.0}, "mixture: every source has 0; at least one must be above it"),
    ],
)
def test_shares_are_numbers_that_can_be_shares(section: str, shares: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        check_shares(section, shares)
    check_shares(section, {})
    check_shares(section, {"a": 0.0, "b": 2.0})


def test_names_are_those_of_sources() -> None:
    check_names("mixture", {}, ["a"], every=True)
    check_names("mixture", {"a": 1.0}, ["a", "b"])
    with pytest.raises(UserError, match="^mixture.c: there is no such source; the sources are a, b$"):
        check_names("mixture", {"a": 1.0, "c": 1.0}, ["b", "a"])
    with pytest.raises(
        UserError, match="^mixture_epochs has no epochs for source b; 0 leaves it out; corpus x holds a, b$"
    ):
        check_names("mixture_epochs", {"a": 1.0}, ["a", "b"], told="corpus x holds a, b", every=True)
