"""The load test's judgement of answers: what is near enough passes, what could be another's does not."""

from __future__ import annotations

import numpy as np
import pytest
from load import PLAYED, check_distinct, holds, point
from load_client import REDUCED_TOLERANCE, Outcomes, Request, difference, tolerance_of

from mmx.runtime.errors import BadDataError

OWN, OTHER = np.array([[1.0, -2.0, 0.5]]), np.array([[1.0, -1.7, 0.5]])


def answer(logits: np.ndarray) -> dict:
    return {"segments": [{"logits": dict(zip("abc", row, strict=True))} for row in logits.tolist()]}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_an_answer_may_be_off_by_its_precision_and_no_more(precision: str) -> None:
    tolerance = tolerance_of(precision)
    request = Request({}, OWN, tolerance)
    assert difference(answer(OWN + 0.9 * tolerance * 2), request) == ""
    for wrong in (OWN + 1.1 * tolerance * 2, OTHER, np.full_like(OWN, np.nan), np.concatenate([OWN, OWN])):
        assert difference(answer(wrong), request)


def test_requests_that_could_be_mixed_up_unseen_are_rejected() -> None:
    check_distinct([OWN, OTHER, OWN], REDUCED_TOLERANCE)  # the same one twice need not be distinct
    with pytest.raises(BadDataError, match="mix-up"):
        check_distinct([OWN, OTHER], 0.1)


def test_a_rate_is_held_only_if_lost_and_rejected_requests_count_as_late() -> None:
    def played(late: int, rejected: int = 0, wrong: int = 0):
        answered = PLAYED - rejected - wrong
        outcomes = Outcomes(seconds=[2.0] * late + [0.1] * (answered - late))
        outcomes.rejected["busy"] += rejected
        outcomes.wrong += ["logits differ"] * wrong
        return point("batched", 5.0, outcomes, bound_ms=1000.0)

    assert holds(played(3))
    assert not holds(played(4))
    assert holds(played(1, rejected=1, wrong=1))
    assert not holds(played(2, rejected=1, wrong=1))
    assert not holds(played(0, rejected=4))
