"""A data set on disk: processed IEMOCAP or MOSEI, found by its name or its folder, or a table of one's own clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmx.datasets.processed import LABELS, Item, read_processed
from mmx.datasets.table import SUFFIXES, Clip, Table, read_table
from mmx.runtime.errors import BadDataError, UsageError

SPLITS = ("train", "valid", "test")
SYNTHETIC_MARKER = "synthetic.json"  # in the folder of a set that mmx synth made
_WHERE = "name the folder that holds IEMOCAP_RAW_PROCESSED or MOSEI_RAW_PROCESSED and the *_SPLIT beside it"


@dataclass(frozen=True)
class DataSet:
    """A data set on disk.

    Attributes:
        root: its folder, or the table's file.
        layout: iemocap, mosei or table. name: the layout, ``synthetic`` for what mmx synth made, or the table's name.
        labels: in the order of the items' ``target``. table: what a table holds.
        merged: for each label, the places of those of the set that it stands for (see ``mapped``); empty: as they are.
    """

    root: Path
    layout: str
    name: str
    labels: tuple[str, ...]
    table: Table | None = None
    merged: tuple[tuple[int, ...], ...] = ()

    def items(self, split: str) -> Sequence[Item | Clip]:
        """The utterances of a split, in its file's order.

        Raises:
            UsageError: no such split. BadDataError: a part of the layout is missing or damaged.
        """
        if split not in SPLITS:
            raise UsageError(f"there is no split {split!r}", f"use one of {', '.join(SPLITS)}")
        items: Sequence[Item | Clip] = (
            self.table.splits[split] if self.table else read_processed(self.root, self.layout, split)
        )
        if self.table and not items:
            raise BadDataError(f"{self.root} has no row in the {split} split", "its column of splits decides")
        return [_merged(item, self.merged) for item in items if _keeps(item, self.merged)] if self.merged else items

    def mapped(self, mapping: Mapping[str, str]) -> DataSet:
        """The set with labels renamed, merged (two to one name) or dropped (to ""). An utterance that had dropped
        labels only is left out.

        Raises:
            UsageError: the set has no such label, or none is left.
        """
        if unknown := sorted(set(mapping) - set(self.labels)):
            raise UsageError(f"{self.root} has no label {unknown[0]!r}", f"it has {', '.join(self.labels)}")
        targets = [mapping.get(label, label) for label in self.labels]
        labels = tuple(dict.fromkeys(target for target in targets if target))
        if not labels:
            raise UsageError("--map drops every label", "keep some")
        groups = tuple(tuple(place for place, t in enumerate(targets) if t == label) for label in labels)
        return replace(self, labels=labels, merged=groups)


def find_dataset(what: str | Path, data: Path | None = None) -> DataSet:
    """The data set that ``iemocap``, ``mosei`` or a folder names.

    Args:
        data: the folder, where ``what`` is a name.

    Raises:
        UsageError: no folder was named, or it holds no data set or two, or not the one that was named.
    """
    asked = str(what) if str(what) in LABELS else None
    root = data if asked else Path(what)
    if root is not None and not asked and root.suffix.lower() in SUFFIXES and not root.is_dir():
        table = read_table(root)
        return DataSet(root, "table", root.stem[:100], table.labels, table)
    if root is None:
        raise UsageError(f"where is {asked}?", f"mmx train {asked} --data DIR; {_WHERE}")
    if not asked and data is not None:
        raise UsageError(f"{what} and --data {data} both name a folder", "name it once")
    found = [name for name in LABELS if (root / f"{name.upper()}_SPLIT").is_dir()]
    if asked:
        found = [name for name in found if name == asked]
    if len(found) != 1:
        missing = f"no {asked or 'data set'}" if not found else "two data sets"
        hint = _WHERE if not found else f"mmx train {'|'.join(found)} --data {root}"
        raise UsageError(f"{root} holds {missing}", hint)
    name = "synthetic" if is_synthetic(root) else found[0]
    return DataSet(root, found[0], name, LABELS[found[0]])


def parse_map(text: str) -> dict[str, str]:
    """``happy=joy,exc=joy,neu=`` as a dictionary.

    Raises:
        UsageError: it is not written so.
    """
    pairs = [part.split("=") for part in text.split(",") if part.strip()]
    if not pairs or any(len(pair) != 2 or not pair[0].strip() for pair in pairs):
        raise UsageError(f"{text!r} is not a mapping of labels", "--map happy=joy,exc=joy,neu=")
    return {old.strip(): new.strip() for old, new in pairs}


def _keeps(item: Item | Clip, merged: Sequence[Sequence[int]]) -> bool:
    """Whether a label is left of an item, or it had none."""
    return not any(item.target) or any(item.target[place] for group in merged for place in group)


def _merged(item: Item | Clip, merged: Sequence[Sequence[int]]) -> Item | Clip:
    return replace(item, target=tuple(int(any(item.target[place] for place in group)) for group in merged))


def is_synthetic(root: Path) -> bool:
    """Whether a data set is one that ``mmx synth`` made."""
    return (root / SYNTHETIC_MARKER).is_file()
