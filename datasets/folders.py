"""A folder of clips that is no processed data set: as Hugging Face's ``datasets`` writes them, or sorted by label.

metadata.csv|jsonl|parquet, or one in each of train, valid, test     (its column ``file_name`` names the media)
data/train-00000-of-00002.parquet ...                                (media and labels in the table)
train/data-00000-of-00001.arrow ...                                  (``save_to_disk``)
[train/]happy/clip.mp4                                               (words in clip.txt, if there are any)
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mmx.datasets.prepare.text_files import read_text
from mmx.datasets.rows import SUFFIXES, Raw, read_rows
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.media.source import MEDIA

SPLIT_NAMES = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "dev": "valid"}
SPLIT_NAMES |= {"validation": "valid", "test": "test", "testing": "test", "eval": "test"}
MOST_FILES = 5_000_000


def read_folder(folder: Path, files: str | None = None) -> Iterator[Raw]:
    """The rows of a folder; none where it holds nothing of the kind.

    Args:
        files: a glob, relative to the folder: these files are the clips, by the folders that they are in.

    Raises:
        BadDataError: one of its tables cannot be read. UsageError: the glob matches nothing.
    """
    tables = [] if files else _tables(folder)
    if not tables:
        yield from _sorted_clips(folder, files)
        return
    splits = {path: _split_of(path, folder) for path in tables}
    several = len(set(splits.values())) > 1  # a set with one split alone has none yet
    number = 0
    for path in tables:
        for raw in read_rows(path):
            number += 1
            cells = {"split": splits[path], **raw.cells} if several and splits[path] else raw.cells
            yield replace(raw, line=number if len(tables) > 1 else raw.line, cells=cells)


def holds_clips(folder: Path) -> bool:
    """Whether ``read_folder`` finds anything there."""
    return bool(_tables(folder)) or next(_media(folder), None) is not None


def _tables(folder: Path) -> list[Path]:
    """The tables of a folder: its metadata, else what ``datasets`` saved there."""
    about = [path for path in (*folder.glob("metadata.*"), *folder.glob("*/metadata.*")) if path.suffix in SUFFIXES]
    columnar = [path for kind in ("parquet", "arrow") for deep in ("", "*/") for path in folder.glob(f"{deep}*.{kind}")]
    found = about or [path for path in columnar if not path.name.startswith("cache-")]
    return sorted(path for path in found if path.is_file())


def _split_of(path: Path, folder: Path) -> str:
    """The split that a table's name or folder tells; "" for none."""
    names = [re.split(r"[-_.]", path.name)[0], path.parent.name if path.parent != folder else ""]
    return next((SPLIT_NAMES[name.lower()] for name in names if name.lower() in SPLIT_NAMES), "")


def _sorted_clips(folder: Path, files: str | None) -> Iterator[Raw]:
    """A row for each clip: its label is its folder's name, its split one of the folders above."""
    found = matching(folder, files) if files else sorted(_media(folder))
    above = {path: path.relative_to(folder).parts[:-1] if path.is_relative_to(folder) else () for path in found}
    split = {path: next((p for p in parts if p.lower() in SPLIT_NAMES), "") for path, parts in above.items()}
    several = len({name.lower() for name in split.values()} - {""}) > 1
    for number, path in enumerate(found, 1):
        parts = [part for part in above[path] if part != split[path]]
        cells = {"file": str(path), "label": parts[-1] if parts else "", "text": ""}
        if several:
            cells["split"] = split[path]
        words, problem = path.with_suffix(".txt"), "" if parts else f"{path.name} is in no folder of a label"
        try:
            cells["text"] = read_text(words) if words.is_file() else ""
        except BadDataError as e:
            problem = e.message
        yield Raw(number, cells, folder, problem)


def _media(folder: Path) -> Iterator[Path]:
    """Media files at any depth; hidden files and folders are passed over, and no link to a folder is followed."""
    count = 0
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            count += 1
            if count > MOST_FILES:
                raise BadDataError(f"{folder} has more than {MOST_FILES} files", "name a smaller folder")
            if not name.startswith(".") and Path(name).suffix.lower() in MEDIA:
                yield Path(here) / name


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files that a glob matches, relative to a folder unless it is absolute, in order.

    Raises:
        UsageError: there are none.
    """
    names = glob.iglob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    found = sorted(path for name in names if (path := folder / name).is_file())
    if not found:
        raise UsageError(f"--files {pattern} matches no file in {folder}", "such as 'videos/**/*.mp4', in quotes")
    return found
