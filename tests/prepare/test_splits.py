"""Drawn splits have the paper's shares, hold each utterance once, and keep groups together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmx.datasets.prepare.splits import by_session, drawn
from mmx.runtime.errors import BadDataError


@given(st.lists(st.integers(1, 9), min_size=3, max_size=60), st.integers(0, 3))
@settings(deadline=None)
def test_no_split_is_empty_and_no_group_is_cut(sizes: list[int], seed: int) -> None:
    groups = {f"v{number}": [f"v{number}_{clip}" for clip in range(size)] for number, size in enumerate(sizes)}
    splits = drawn(groups, seed)
    names = [name for mine in splits.values() for name in mine]
    assert sorted(names) == sorted(name for mine in groups.values() for name in mine)
    assert all(splits.values())
    videos = [{name.split("_")[0] for name in mine} for mine in splits.values()]
    assert sum(map(len, videos)) == len(groups)


def test_shares_are_the_papers_and_the_seed_decides() -> None:
    groups = {f"u{number}": [f"u{number}"] for number in range(1000)}
    splits = drawn(groups, 0)
    assert {split: len(names) for split, names in splits.items()} == {"train": 700, "valid": 100, "test": 200}
    assert drawn(dict(reversed(groups.items())), 0)["test"] == splits["test"][::-1]
    assert set(drawn(groups, 1)["test"]) != set(splits["test"])
    with pytest.raises(BadDataError, match="too few"):
        drawn({"a": ["a_0", "a_1"], "b": ["b_0"]}, 0)


def test_sessions_are_left_out_in_turn() -> None:
    sessions = {f"Ses0{number}": [f"Ses0{number}F_impro01_F00{u}" for u in range(4)] for number in range(1, 6)}
    tested = []
    for seed in range(5):
        splits = by_session(sessions, seed)
        people = [{name[:5] for name in splits[split]} for split in ("train", "valid", "test")]
        assert [len(mine) for mine in people] == [3, 1, 1] and len(set.union(*people)) == 5
        tested += people[2]
    assert tested == ["Ses05", "Ses01", "Ses02", "Ses03", "Ses04"]
