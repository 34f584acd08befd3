"""The synthetic test sets have the published sizes and durations, and a stratified part stands for the whole."""

import numpy as np
import pytest

from mmx.benchmarks.workload.utterances import make_sample, stratified, synthetic
from mmx.export.durations import PERCENT, QUANTILES_S
from mmx.runtime.errors import UsageError


def integral_of_quantiles(dataset: str) -> float:
    """Mean of the distribution the table describes: the trapezoid rule over its quantile function."""
    return float(np.trapezoid(QUANTILES_S[dataset], np.array(PERCENT) / 100))


@pytest.mark.parametrize(
    ("dataset", "count", "median", "p90", "p99", "longest"),
    [("iemocap", 1481, 3.69, 8.91, 15.34, 34.14), ("mosei", 4188, 6.75, 13.83, 25.69, 104.63)],
)
def test_durations_follow_the_table(dataset, count, median, p90, p99, longest):
    work = synthetic(dataset)
    durations = np.array([u.duration for u in work.utterances])
    assert len(durations) == work.total == count
    assert durations.mean() == pytest.approx(integral_of_quantiles(dataset), rel=2e-3)
    assert np.median(durations) == pytest.approx(median, rel=1e-2)
    assert np.percentile(durations, [90, 99]) == pytest.approx([p90, p99], rel=1e-2)
    assert durations.max() == pytest.approx(longest)


@pytest.mark.parametrize("dataset", ["iemocap", "mosei"])
def test_sizes_follow_the_rules(dataset):
    work = synthetic(dataset)
    seconds = np.array([u.duration for u in work.utterances])
    # rounding up adds half a unit on average
    assert sum(u.faces for u in work.utterances) == pytest.approx((seconds / 0.5 + 0.5).sum(), rel=1e-2)
    assert sum(u.pieces for u in work.utterances) == pytest.approx((seconds / 0.4 + 0.5).sum(), rel=1e-2)
    words = np.array([u.words for u in work.utterances])
    line = np.maximum(1, -2.15 + 3.28 * seconds) if dataset == "iemocap" else 2.5 * seconds
    assert words.min() >= 1
    assert words.sum() == pytest.approx(line.sum(), rel=2e-2)
    assert max(u.tokens for u in work.utterances) == 100


def test_new_shapes_are_as_many_as_there_are_shapes():
    for dataset, shapes in (("iemocap", 425), ("mosei", 193)):  # as docs/benchmark.md says
        whole = synthetic(dataset)
        assert sum(whole.new_shapes) == len({each.shape for each in whole.utterances}) == shapes
        assert sum(stratified(whole, 12).new_shapes) == shapes


def test_the_seed_fixes_everything():
    assert synthetic("iemocap") == synthetic("iemocap")
    utterance = synthetic("iemocap").utterances[7]
    one, two = make_sample(utterance), make_sample(utterance)
    assert np.array_equal(one.faces, two.faces)
    assert np.array_equal(one.pieces, two.pieces)
    assert np.array_equal(one.token_ids, two.token_ids)
    assert one.faces.shape == (utterance.faces, 3, 48, 48)
    assert one.pieces.shape == (utterance.pieces, 128, 32)
    assert one.token_ids.shape == (utterance.tokens,)
    assert (one.token_ids[0], one.token_ids[-1]) == (2, 3)


@pytest.mark.parametrize("samples", [1, 8, 30, 200])
def test_a_stratified_part_stands_for_the_whole(samples):
    whole = synthetic("mosei")
    part = stratified(whole, samples)
    assert len(part.utterances) == samples
    assert part.is_subset
    assert sum(part.weights) == whole.total
    assert part.seconds == pytest.approx(whole.seconds, rel=1e-2)
    pieces = part.extrapolate(np.array([u.pieces for u in part.utterances]))
    assert pieces == pytest.approx(sum(u.pieces for u in whole.utterances), rel=5e-2)


def test_subset_limits():
    whole = synthetic("iemocap")
    assert stratified(whole, 1481) is whole
    assert not whole.is_subset
    with pytest.raises(UsageError):
        stratified(whole, 0)
    with pytest.raises(UsageError, match="celeba"):
        synthetic("celeba")
