"""Searches for the smallest good number: right wherever one exists, and bisecting takes few checks."""

from __future__ import annotations

import pytest

from mmx.export.precision.search import bisect, linear


@pytest.mark.parametrize("search", [linear, bisect])
@pytest.mark.parametrize("answer", range(1, 15))
def test_the_smallest_good_number(search, answer):
    """Of 1 to 12; 13 and 14 are not among them."""
    asked = []

    def good(number: int) -> bool:
        assert 1 <= number <= 12
        asked.append(number)
        return number >= answer

    assert search(good, 1, 12) == (answer if answer <= 12 else None)
    assert len(asked) <= (answer if search is linear else 2 * answer.bit_length() + 1)
    assert search(good, 5, 4) is None


def test_linear_finds_a_lone_good_number_and_bisect_gives_a_good_one():
    assert linear(lambda number: number == 3, 1, 12) == 3
    assert bisect(lambda number: number in (2, 12), 1, 12) in (2, 12)
