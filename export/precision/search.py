"""Searching for how much has to stay precise: how far to go. Whether it is enough is another's to check (``Good``)."""

from __future__ import annotations

from collections.abc import Callable

Good = Callable[[int], bool]
"""Checks one candidate: whether it is enough to keep so many of the ranked parts in FP32."""


def linear(good: Good, first: int, last: int) -> int | None:
    """The first good number from ``first`` to ``last``; None: none is. For what need not get better with each part."""
    return next((number for number in range(first, last + 1) if good(number)), None)


def bisect(good: Good, first: int, last: int) -> int | None:
    """The same in a logarithm of the checks, where more parts are never worse: doubling steps, then halves.

    Where that does not hold the result is good all the same (it was checked), but need not be the smallest.
    """
    low, high, step = first, first, 1
    while low <= last and not good(high):
        low, high, step = high + 1, min(high + step, last), 2 * step
    if low > last:
        return None
    while low < high:
        middle = (low + high) // 2
        if good(middle):
            high = middle
        else:
            low = middle + 1
    return high
