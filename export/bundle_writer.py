"""Writing a bundle so that it is there whole or not at all, in one step, also over another one.

The files go to ``<name>.tmp-<random>`` beside the destination; the manifest is written last, then the folders swap
names. Variants of an unchanged graph are kept: linked into the new folder before the swap, and after it once more, for
those that another process has added meanwhile.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from mmx.export.folders import OLD, clear_leftovers, locked, new_folder, place, sync_files
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.files import UNFINISHED, sha256_of, write_errors
from mmx.runtime.manifest import Manifest
from mmx.runtime.manifest_reader import MANIFEST, VARIANTS, parse_manifest, read_manifest
from mmx.runtime.variants import HIDDEN, RECORD, Variant, list_variants

_OTHER_OUT = "choose another place with --out"
# What mmx before schema_version 2 put into a bundle after its export.
_ADDED_BY_1 = re.compile(r"engines/[^/]+|model\.[a-z0-9-]+\.onnx|trials\.json(\.\d+)?")


@contextmanager
def bundle_folder(out: Path, needs: int = 0) -> Iterator[Path]:
    """A new folder to fill; when the block ends well it becomes ``out``, otherwise it goes away.

    A bundle that is already at ``out`` stays until then, and is replaced whole; its variants are kept if the new one
    has the same graph.

    Args:
        out: the bundle's folder.
        needs: bytes that will be written, so that a full disk is reported before the work is done.

    Raises:
        UsageError: ``out`` is something other than a bundle, or its folder cannot be written.
        EnvironmentMissing: the disk is full.
    """
    _check_replaceable(out)
    prefix = f"{out.name}{UNFINISHED}"
    with write_errors(out, _OTHER_OUT):
        _restore(out, prefix)
        clear_leftovers(out.parent, prefix)
        folder, lock = new_folder(out.parent, prefix)
    try:
        with write_errors(out, _OTHER_OUT):
            if shutil.disk_usage(folder).free < needs:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield folder
            sync_files(folder)
            _move_into_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under ``folder`` by its path relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def write_manifest(folder: Path, manifest: Manifest, checkpoint: Path) -> None:
    """Write manifest.json: the last file, without which the folder is not a bundle.

    Raises:
        BadDataError: the checkpoint has names or numbers that no reader of the bundle would take.
    """
    content = manifest.to_json().encode()
    try:
        parse_manifest(content, checkpoint)
    except BadDataError as e:
        raise BadDataError(e.message, "correct it in the checkpoint's config") from e
    (folder / MANIFEST).write_bytes(content)


def _check_replaceable(out: Path) -> None:
    """Raise UsageError for anything but a bundle, and for a bundle that holds files of somebody else."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} exists and is not a bundle folder", _OTHER_OUT)
    if not out.exists() or not any(out.iterdir()):
        return
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        listed, version = set(manifest["files"]), manifest["schema_version"]
    except FileNotFoundError as e:
        if not out.exists() or (out / MANIFEST).exists():  # another export is replacing it just now
            return
        raise UsageError(f"{out} exists and is not an mmx bundle", f"remove it, or {_OTHER_OUT}") from e
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise UsageError(f"{out} exists and is not an mmx bundle", f"remove it, or {_OTHER_OUT}") from e
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        ours = name == MANIFEST or name in listed or (version == 1 and _ADDED_BY_1.fullmatch(name))
        if not (path.is_dir() and not path.is_symlink()) and not ours and not _is_of_a_variant(path, out):
            raise UsageError(f"{out} holds {name}, which mmx did not write", f"move it away, or {_OTHER_OUT}")


def _is_of_a_variant(path: Path, out: Path) -> bool:
    """Whether a file lies in the folder of a variant, or of one that is still being written."""
    parts = path.relative_to(out).parts
    folder = out / VARIANTS / parts[1] if len(parts) > 2 and parts[0] == VARIANTS else None
    return folder is not None and (folder.name.startswith(HIDDEN) or (folder / RECORD).exists())


def _restore(out: Path, prefix: str) -> None:
    """Bring back the bundle that a killed export had moved away, where folders cannot be exchanged."""
    if not out.exists():
        for old in out.parent.glob(f"{escape(prefix)}*{OLD}"):
            old.rename(out)
            return


def _move_into_place(folder: Path, out: Path) -> None:
    """Give ``folder`` the name ``out``. What is there goes away, but for the variants of the same graph."""
    manifest = read_manifest(folder / MANIFEST)
    graph = manifest.files[manifest.graphs["fp32"].file]
    with _held(out), _descriptor(folder) as new:
        for variant in list_variants(out / VARIANTS, graph)[0]:
            _link(variant, folder / VARIANTS / variant.name)
        old = place(folder, out)
        if old is None:
            return
        # Whoever added a variant until now added it to the old folder, and whoever does so later sees that it is gone.
        for variant in list_variants(old / VARIANTS, graph)[0]:
            _move(variant, new)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Hold the lock of the folder that is replaced, which is soon named as if a killed export had left it."""
    lock = None
    with suppress(OSError):
        lock = locked(out)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def _descriptor(folder: Path) -> Iterator[int]:
    """An open folder, which stays the same one whatever becomes of its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _link(variant: Variant, target: Path) -> None:
    """The variant's files under another name as well; copied where they cannot be linked."""
    target.mkdir(parents=True)
    try:
        for name in (*variant.record.files, RECORD):
            try:
                os.link(variant.path / name, target / name)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(variant.path / name, target / name)
    except FileNotFoundError:  # it is being removed
        shutil.rmtree(target)


def _move(variant: Variant, bundle: int) -> None:
    """Move a variant's folder into an open bundle, unless it is there."""
    with suppress(FileExistsError):
        os.mkdir(VARIANTS, dir_fd=bundle)
    try:
        os.rename(variant.path, f"{VARIANTS}/{variant.name}", dst_dir_fd=bundle)
    except OSError as e:
        if e.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT):
            raise
