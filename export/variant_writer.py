"""Adding a variant to a bundle: filled in a hidden folder under ``variants/``, then renamed into place whole.

Its name ends in a hash of what it holds, so that nothing ever changes under a name: a newer variant of the same
precision stands beside the older one for a moment, which then goes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmx.export.folders import clear_leftovers, exchange, new_folder, sync_files
from mmx.runtime.bundle import Bundle, BundleReplaced
from mmx.runtime.errors import MmxError
from mmx.runtime.files import UNFINISHED, sha256_of, write_errors
from mmx.runtime.manifest_reader import VARIANTS
from mmx.runtime.records import DomainRecord, EngineRecord, GraphRecord, ProbabilitiesRecord, Record
from mmx.runtime.variants import HIDDEN, RECORD, Variant, check_files, read_all, read_variant

_PREFIX = f"{HIDDEN}{UNFINISHED.lstrip('.')}"
_READ_ONLY = "it is read-only or full: copy the bundle to where it can be written"


class VariantFolder:
    """A hidden folder to fill; ``publish`` gives it its name. Made by ``new_variant``.

    Attributes: ``path``: the folder.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.path = path
        self._root = root
        self._descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)

    def publish(self, name: str, record: Record) -> Variant:
        """Write the record, and put the folder in its place under ``name`` and a hash of what it holds.

        Older ones that it takes the place of go: graphs of the same precision and what was made from them, engines of
        the same key.

        Args:
            name: what it is, such as ``int8``.
            record: its ``files`` are filled in here.

        Raises:
            BundleReplaced: an export has put another bundle in place of the one that this was made for.
        """
        with self.writing():
            files = {path.name: sha256_of(path) for path in sorted(self.path.iterdir())}
            record = replace(record, files=files)
            (self.path / RECORD).write_text(record.to_json(), encoding="utf-8")
            sync_files(self.path)
            name = f"{name}-{_digest(record)}"
            self._rename(name)
        if not self._is_current() and not (self._root / name / RECORD).is_file():
            raise self._replaced()
        variant = Variant(self._root / name, record)
        _remove_older(self._root, variant)
        return variant

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say in one line why a file cannot be written to the folder.

        Raises:
            EnvironmentMissing: the disk is full. UsageError: it cannot be written.
            BundleReplaced: the folder went with a bundle that an export replaced.
        """
        with write_errors(self._root, _READ_ONLY):
            try:
                yield
            except FileNotFoundError:
                if not self._is_current():
                    raise self._replaced() from None
                raise

    def close(self) -> None:
        """Let the folder of variants go."""
        os.close(self._descriptor)

    def _rename(self, name: str) -> None:
        """Rename within the open folder, so that a swap of the bundle cannot come between the two names."""
        here = self._descriptor
        try:
            os.rename(self.path.name, name, src_dir_fd=here, dst_dir_fd=here)
        except OSError as e:
            if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            with suppress(MmxError, FileNotFoundError):
                check_files(read_variant(self._root / name))
                return  # another process has added the very same
            if not exchange(self.path, self._root / name):  # it is damaged
                raise

    def _is_current(self) -> bool:
        """Whether the folder of variants that was opened is the one that has the name."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._root.stat())
        except FileNotFoundError:
            return False

    def _replaced(self) -> BundleReplaced:
        return BundleReplaced(self._root.parent, "it was exported again")


@contextmanager
def new_variant(bundle: Bundle) -> Iterator[VariantFolder]:
    """A hidden folder in a bundle; it goes away unless it is published. What killed processes left is cleared away.

    Raises:
        UsageError: the bundle is read-only. EnvironmentMissing: the disk is full.
        BundleReplaced: an export has put another bundle in its place.
    """
    with bundle.unreplaced(), new_variant_in(bundle.path / VARIANTS) as folder:
        yield folder


@contextmanager
def new_variant_in(root: Path) -> Iterator[VariantFolder]:
    """The same for a folder of variants that belongs to no bundle. Raises UsageError, EnvironmentMissing."""
    with write_errors(root, _READ_ONLY):
        root.mkdir(exist_ok=True)
        clear_leftovers(root, _PREFIX)
        path, lock = new_folder(root, _PREFIX)
    try:
        folder = VariantFolder(root, path)
        try:
            yield folder
        finally:
            folder.close()
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def made_now(seconds: float | None = None) -> dict[str, Any]:
    """The record's ``created`` and ``made`` for something that was finished just now."""
    made: dict[str, Any] = {
        "command": shlex.join(["mmx", *sys.argv[1:]]) if Path(sys.argv[0]).name == "mmx" else "Python",
        "platform": f"{platform.system()} {platform.machine()}",
        "mmx": version("mmx"),
    }
    if seconds is not None:
        made["seconds"] = round(seconds, 1)
    return {"created": datetime.now(UTC).isoformat(timespec="microseconds"), "made": made}


def _digest(record: Record) -> str:
    """Twelve hex digits of what a variant holds; when and how long it was made is no part of it."""
    content = asdict(replace(record, created="", made={}))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _remove_older(root: Path, new: Variant) -> None:
    """Remove what the new variant takes the place of, and the graphs that were made from that."""
    for other in read_all(root)[0]:
        if other.name != new.name and other.record.created < new.record.created and _takes_the_place_of(new, other):
            remove(other.path)


def _takes_the_place_of(new: Variant, old: Variant) -> bool:
    match new.record, old.record:
        case EngineRecord(key=key), EngineRecord():
            return old.record.key == key
        case GraphRecord(precision=precision), GraphRecord():
            parent = old.record.made_from.get(precision, new.sha256)
            return old.record.precision == precision or parent != new.sha256
        case (ProbabilitiesRecord(), ProbabilitiesRecord()) | (DomainRecord(), DomainRecord()):
            return True
        case _:
            return new.record.kind == old.record.kind and new.record.recipe == old.record.recipe


def remove(path: Path) -> None:
    """Take a folder out of a reader's sight in one step, then remove it."""
    hidden = path.with_name(f"{_PREFIX}{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
