"""Which utterance is in which split: published lists, or drawn from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmx.datasets.prepare.text_files import read_lines
from mmx.runtime.errors import BadDataError

SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}  # the paper's
Splits = dict[str, list[str]]


def published(folder: Path, dataset: str) -> Splits:
    """The lists of a folder (or of its ``IEMOCAP_SPLIT``, ``IEMOCAP_split``, MOSEI's alike), in their order.

    Raises:
        BadDataError: a list is missing or empty.
    """
    upper = dataset.upper()
    places = [folder, folder / f"{upper}_SPLIT", folder / f"{upper}_split"]
    place = next((place for place in places if (place / "train_split.txt").is_file()), folder)
    lists = {}
    for split in SHARES:
        path = place / f"{split}_split.txt"
        lists[split] = [line.strip() for line in read_lines(path) if line.strip()]
        if not lists[split]:
            raise BadDataError(f"{path} is empty", "one utterance a line")
    return lists


def keep(lists: Mapping[str, Sequence[str]], usable: Iterable[str]) -> Splits:
    """The lists in their order, without what is not usable; an id that is there twice stays where it is first.

    Raises:
        BadDataError: nothing is left of a split.
    """
    left = dict.fromkeys(usable)
    kept: Splits = {}
    for split, names in lists.items():
        kept[split] = [name for name in names if left.pop(name, "gone") is None]
        if not kept[split]:
            raise BadDataError(f"no utterance of the {split} list is in this release", "give other --splits, or none")
    return kept


def drawn(groups: Mapping[str, Sequence[str]], seed: int) -> Splits:
    """Splits of about 70, 10 and 20 % of the utterances, none empty; a group is never in two.

    The same groups and seed give the same splits on every machine.

    Raises:
        BadDataError: there are fewer than three groups.
    """
    if len(groups) < len(SHARES):
        raise BadDataError(
            f"{len(groups)} usable utterances or videos are too few for three splits", "--splits DIR gives lists"
        )
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    total = sum(map(len, groups.values()))
    taken: dict[str, str] = {}
    for later, split in reversed(list(enumerate(("train", "valid", "test")))):
        count = 0
        for name in [name for name in order if name not in taken]:
            size = len(groups[name])
            room = len(order) - len(taken) > later  # each split that is still to come gets a group
            if (split != "train" and count and count + size / 2 > SHARES[split] * total) or not room:
                break
            taken[name] = split
            count += size
    return {split: [u for name in groups if taken[name] == split for u in groups[name]] for split in SHARES}


def by_session(sessions: Mapping[str, Sequence[str]], seed: int) -> Splits:
    """One session is the test split, one the validation split, the others are for training: no speaker is in two.

    ``seed`` 0 tests on the last session, 1 on the first, 2 on the second and so on; validation takes the one before.
    With two sessions, training and validation share the one that is not tested.

    Raises:
        BadDataError: there is only one session.
    """
    names = sorted(sessions)
    if len(names) < 2:
        raise BadDataError("one session alone can't be split by session", "--split random")
    test = names[(seed - 1) % len(names)]
    rest = [name for name in names if name != test]
    if len(rest) == 1:
        both = sorted(sessions[rest[0]], key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
        if len(both) < 2:
            raise BadDataError(f"{rest[0]} has one usable utterance, too few to train and validate on")
        few = set(both[: max(1, round(len(both) / 8))])
        train = [name for name in sessions[rest[0]] if name not in few]
        return {"train": train, "valid": [u for u in sessions[rest[0]] if u in few], "test": list(sessions[test])}
    valid = names[(names.index(test) - 1) % len(names)]
    train = [u for name in rest if name != valid for u in sessions[name]]
    return {"train": train, "valid": list(sessions[valid]), "test": list(sessions[test])}
