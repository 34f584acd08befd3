"""A data set on disk: processed IEMOCAP or MOSEI, found by its name or its folder, or one's own clips (``table``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmx.datasets.folders import holds_clips
from mmx.datasets.labels import merge
from mmx.datasets.processed import LABELS, Item, read_processed
from mmx.datasets.rows import SUFFIXES
from mmx.datasets.table import Clip, Table, read_table
from mmx.runtime.errors import BadDataError, UsageError

SPLITS = ("train", "valid", "test")
SYNTHETIC_MARKER = "synthetic.json"  # in the folder of a set that mmx synth made
_WHERE = "name the folder that holds IEMOCAP_RAW_PROCESSED or MOSEI_RAW_PROCESSED and the *_SPLIT beside it"


@dataclass(frozen=True)
class DataSet:
    """A data set on disk.

    Attributes:
        root: its folder, or the table's file or folder.
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
        labels, groups = merge(self.labels, mapping, str(self.root))
        return replace(self, labels=labels, merged=groups)


def find_dataset(
    what: str | Path,
    data: Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    files: str | None = None,
) -> DataSet:
    """The data set that ``iemocap``, ``mosei``, a folder or a table names.

    Args:
        data: the folder, where ``what`` is a name.
        columns, files: of a table of one's own; see ``read_table``.

    Raises:
        UsageError: no folder was named, or it holds no data set or two, or not the one that was named.
        BadDataError: a table that cannot be read.
    """
    asked = str(what) if str(what) in LABELS else None
    root = data if asked else Path(what)
    if root is None:
        raise UsageError(f"where is {asked}?", f"mmx train {asked} --data DIR; {_WHERE}")
    if not asked and data is not None:
        raise UsageError(f"{what} and --data {data} both name a folder", "name it once")
    found = [name for name in LABELS if (root / f"{name.upper()}_SPLIT").is_dir()]
    if not asked and not found and _is_own(root, files):
        table = read_table(root, columns, files=files)
        return DataSet(root, "table", (root.stem or root.resolve().name)[:100], table.labels, table)
    if columns or files:
        raise UsageError(f"{root} is not a table or a folder of clips", "leave --columns and --files out")
    if asked:
        found = [name for name in found if name == asked]
    if len(found) != 1:
        missing = f"no {asked or 'data set'}" if not found else "two data sets"
        hint = _WHERE if not found else f"mmx train {'|'.join(found)} --data {root}"
        raise UsageError(f"{root} holds {missing}", hint)
    name = "synthetic" if is_synthetic(root) else found[0]
    return DataSet(root, found[0], name, LABELS[found[0]])


def _is_own(root: Path, files: str | None) -> bool:
    """Whether it is a table, or a folder of one's own clips; a part of a processed set is not."""
    if not root.is_dir():
        return root.suffix.lower() in SUFFIXES
    parts = [root.name, *(path.name for path in root.glob("*_RAW_PROCESSED"))]
    return not any(name.endswith("_RAW_PROCESSED") for name in parts) and (files is not None or holds_clips(root))


def _keeps(item: Item | Clip, merged: Sequence[Sequence[int]]) -> bool:
    """Whether a label is left of an item, or it had none."""
    return not any(item.target) or any(item.target[place] for group in merged for place in group)


def _merged(item: Item | Clip, merged: Sequence[Sequence[int]]) -> Item | Clip:
    return replace(item, target=tuple(int(any(item.target[place] for place in group)) for group in merged))


def is_synthetic(root: Path) -> bool:
    """Whether a data set is one that ``mmx synth`` made."""
    return (root / SYNTHETIC_MARKER).is_file()
