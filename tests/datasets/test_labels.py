"""Labels that are merged on either side, and what a merged label's logit is."""

from __future__ import annotations

import numpy as np
import pytest

from mmx.datasets.labels import between, merge, merged_logits, merged_thresholds
from mmx.evaluation.scores import decisions
from mmx.runtime.errors import UsageError

PREDICTED = ("ang", "exc", "hap", "neu")


def test_a_mapping_between_what_is_predicted_and_what_the_data_hold() -> None:
    mapping = {"exc": "joy", "hap": "joy", "happy": "joy", "neu": "", "ang": "anger"}
    mine, theirs = between(PREDICTED, ("anger", "happy", "neu"), mapping)
    assert merge(PREDICTED, mine, "x")[0] == ("anger", "joy") == merge(("anger", "happy", "neu"), theirs, "y")[0]
    with pytest.raises(UsageError, match="'hapy', which is neither"):
        between(PREDICTED, ("happy",), {"hapy": "joy"})


def test_a_merged_label_is_predicted_where_one_of_its_parts_is() -> None:
    labels, groups = merge(PREDICTED, {"exc": "joy", "hap": "joy", "neu": ""}, "x")
    thresholds = (0.3, 0.9, 0.2, 0.5)
    logits = np.random.default_rng(0).normal(0, 2, (500, 4)).astype(np.float32)
    each = decisions(logits, thresholds)
    made = decisions(merged_logits(logits, thresholds, groups), merged_thresholds(thresholds, groups))
    assert labels == ("ang", "joy")
    np.testing.assert_array_equal(made, np.stack([each[:, 0], each[:, 1] | each[:, 2]], axis=1))
    _, same = merge(PREDICTED, {}, "x")
    np.testing.assert_array_equal(merged_logits(logits, thresholds, same), logits)
