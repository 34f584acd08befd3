"""Packing: what goes in can be read back by the contract's own rules, and malformed samples are rejected."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmx.runtime.errors import UsageError
from mmx.runtime.manifest import TextSpec
from mmx.runtime.packing import INPUTS, pack, rows, split
from mmx.runtime.types import Batch, Sample


def make(tokens: int | None, faces: int, pieces: int, seed: int = 0) -> Sample:
    random = np.random.default_rng([seed, tokens or 0, faces, pieces])
    return Sample(
        None if tokens is None else random.integers(4, 30000, tokens),
        random.random((faces, 3, 48, 48), np.float32) * 255,
        random.random((pieces, 128, 32), np.float32),
    )


shapes = st.tuples(st.none() | st.integers(2, 9), st.integers(0, 4), st.integers(0, 5))
batches = st.lists(shapes, min_size=1, max_size=6).map(lambda all: [make(*one, seed=i) for i, one in enumerate(all)])


def unpack(batch: Batch, number: int) -> Sample:
    """One sample as the graph reads it: by mask and index alone."""
    inputs = batch.inputs
    ids = inputs["input_ids"][number][inputs["attention_mask"][number] == 1]
    faces = inputs["faces"][[i for i in inputs["face_index"][number] if i >= 0]]
    pieces = inputs["pieces"][[i for i in inputs["piece_index"][number] if i >= 0]]
    return Sample(ids, faces, pieces)


@settings(deadline=None, max_examples=60)
@given(batches)
def test_unpacking_gives_the_samples_back(samples: list[Sample]) -> None:
    batch = pack(samples)
    assert batch.size == len(samples)
    for number, sample in enumerate(samples):
        back = unpack(batch, number)
        expected = [2, 3] if sample.token_ids is None else sample.token_ids
        np.testing.assert_array_equal(back.token_ids, expected)
        np.testing.assert_array_equal(back.faces, sample.faces)
        np.testing.assert_array_equal(back.pieces, sample.pieces)


@settings(deadline=None, max_examples=60)
@given(batches)
def test_nothing_is_computed_for_padding(samples: list[Sample]) -> None:
    inputs = pack(samples).inputs
    longest = max(2 if s.token_ids is None else len(s.token_ids) for s in samples)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (len(samples), longest)
    assert len(inputs["faces"]) == max(1, sum(len(s.faces) for s in samples))
    assert len(inputs["pieces"]) == max(1, sum(len(s.pieces) for s in samples))
    assert inputs["face_index"].shape[1] == max(1, *(len(s.faces) for s in samples), 0)
    assert inputs["piece_index"].shape[1] == max(1, *(len(s.pieces) for s in samples), 0)
    assert (inputs["input_ids"][inputs["attention_mask"] == 0] == 0).all()
    for name in INPUTS:
        assert inputs[name].dtype == (np.float32 if name in ("faces", "pieces") else np.int64)


@settings(deadline=None, max_examples=60)
@given(batches, st.integers(1, 12), st.integers(1, 4))
def test_split_keeps_order_and_budgets(samples: list[Sample], max_rows: int, max_size: int) -> None:
    groups = list(split(samples, max_rows, max_size))
    assert [id(s) for group in groups for s in group] == [id(s) for s in samples]
    assert all(len(group) <= max_size and (len(group) == 1 or rows(group) <= max_rows) for group in groups)
    for group, after in pairwise(groups):
        assert len(group) == max_size or rows([*group, after[0]]) > max_rows  # no group is cut short


def test_special_ids_come_from_the_spec() -> None:
    inputs = pack([make(None, 0, 0), make(4, 0, 0)], TextSpec(cls_id=7, sep_id=8, pad_id=9)).inputs
    assert inputs["input_ids"][0].tolist() == [7, 8, 9, 9]
    assert inputs["attention_mask"][0].tolist() == [1, 1, 0, 0]


def test_inputs_that_the_graph_lacks_are_left_out() -> None:
    batch = pack([make(3, 1, 1)], inputs=("faces", "face_index"))
    assert set(batch.inputs) == {"faces", "face_index"}


@pytest.mark.parametrize(
    ("field", "bad", "words"),
    [
        ("faces", np.zeros((2, 48, 48, 3), np.float32), r"faces are float32 \[2, 48, 48, 3\]"),
        ("faces", np.zeros((2, 3, 48, 48), np.uint8), "faces are uint8"),
        ("pieces", np.zeros((128, 32), np.float32), r"pieces are float32 \[128, 32\]"),
        ("pieces", np.zeros((1, 128, 32)), "pieces are float64"),
        ("token_ids", np.array([2, 3], np.int32), "token_ids are int32"),
        ("token_ids", np.array([[2, 3]]), r"token_ids are int64 \[1, 2\]"),
        ("token_ids", np.array([], np.int64), r"token_ids are int64 \[0\]"),
    ],
)
def test_a_malformed_sample_is_named(field: str, bad: np.ndarray, words: str) -> None:
    good = make(3, 1, 1)
    parts = {"token_ids": good.token_ids, "faces": good.faces, "pieces": good.pieces, field: bad}
    with pytest.raises(UsageError, match=f"sample 1: {words}"):
        pack([good, Sample(**parts)])


def test_no_samples_and_unknown_inputs_are_rejected() -> None:
    with pytest.raises(UsageError, match="no samples"):
        pack([])
    with pytest.raises(UsageError, match="'audio_len'"):
        pack([make(3, 1, 1)], inputs=("audio_len",))
