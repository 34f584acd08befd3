"""A processed data set on disk: found by its name or its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmx.datasets.processed import LABELS, Item, read_processed
from mmx.runtime.errors import UsageError

SPLITS = ("train", "valid", "test")
SYNTHETIC_MARKER = "synthetic.json"  # in the folder of a set that mmx synth made
_WHERE = "name the folder that holds IEMOCAP_RAW_PROCESSED or MOSEI_RAW_PROCESSED and the *_SPLIT beside it"


@dataclass(frozen=True)
class DataSet:
    """A processed data set on disk.

    Attributes:
        layout: iemocap or mosei. name: the layout, or ``synthetic`` for what mmx synth made.
        labels: in the order of ``Item.truth``.
    """

    root: Path
    layout: str
    name: str
    labels: tuple[str, ...]

    def items(self, split: str) -> list[Item]:
        """The utterances of a split, in its file's order.

        Raises:
            UsageError: no such split. BadDataError: a part of the layout is missing or damaged.
        """
        if split not in SPLITS:
            raise UsageError(f"there is no split {split!r}", f"use one of {', '.join(SPLITS)}")
        return read_processed(self.root, self.layout, split)


def find_dataset(what: str | Path, data: Path | None = None) -> DataSet:
    """The data set that ``iemocap``, ``mosei`` or a folder names.

    Args:
        data: the folder, where ``what`` is a name.

    Raises:
        UsageError: no folder was named, or it holds no data set or two, or not the one that was named.
    """
    asked = str(what) if str(what) in LABELS else None
    root = data if asked else Path(what)
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


def is_synthetic(root: Path) -> bool:
    """Whether a data set is one that ``mmx synth`` made."""
    return (root / SYNTHETIC_MARKER).is_file()
