"""Bundles from the Hugging Face Hub: ``hf://owner/name@revision``, fetched once, checked, then used from the disk.

A repository that ``mmx push`` made holds one bundle as a folder, its signature beside it (if it is signed), and its
model card. A download goes to a folder of its own beside its place, where a later one fetches only what is missing; it
gets its place by a rename, when every hash holds.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, UsageError, missing_extra
from mmx.runtime.files import sha256_of, write_errors
from mmx.runtime.machine import user_cache
from mmx.runtime.manifest_reader import MANIFEST, is_inside

PREFIX = "hf://"
SIGNATURE = ".sig"  # behind the bundle's name
_NAME = re.compile(r"(?:hf://)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
Check = Callable[[Path], None]
_MOST_FILES, _MOST_BYTES = 10_000, 64 * 2**30


@dataclass(frozen=True)
class Remote:
    """A repository, and the branch, tag or commit (None: the main branch)."""

    repository: str
    revision: str | None = None


@dataclass(frozen=True)
class Offer:
    """What a repository holds at one commit: a bundle's folder by name, its files, its bytes, its licence."""

    repository: str
    commit: str
    bundle: str
    files: tuple[str, ...]
    size: int
    licence: str | None


def parse(name: str) -> Remote:
    """``hf://owner/name@revision``; the prefix and the revision may be left out.

    Raises:
        UsageError: it is no such name.
    """
    found = _NAME.fullmatch(name)
    if not found or ".." in name:
        raise UsageError(f"{name} is no repository of the Hub", f"{PREFIX}OWNER/NAME, or {PREFIX}OWNER/NAME@REVISION")
    return Remote(found[1], found[2])


def is_remote(name: object) -> TypeGuard[str]:
    """Whether a bundle's name is one of the Hub."""
    return isinstance(name, str) and name.startswith(PREFIX)


def local(name: str, check: Check) -> Path:
    """The folder of a bundle on the Hub, in mmx's cache; it is fetched unless it is there.

    A name with a whole commit asks nobody once it is there; others ask the Hub which commit is meant. ``check``: see
    ``fetch``.

    Raises:
        EnvironmentMissing: the Hub cannot be asked. BadDataError: what it holds is no bundle. See ``fetch``.
    """
    remote = parse(name)
    kept = user_cache("hub") / remote.repository.replace("/", "--")
    if remote.revision and _COMMIT.fullmatch(remote.revision) and (found := _only_folder(kept / remote.revision)):
        return found
    offer = look(remote)
    return _only_folder(kept / offer.commit) or fetch(offer, kept / offer.commit / offer.bundle, check)


def look(remote: Remote) -> Offer:
    """What a repository holds.

    Raises:
        EnvironmentMissing: the Hub cannot be asked, or has no such repository or revision.
        BadDataError: there is no bundle in it, or several, or its names do not stay inside.
    """
    with client(remote.repository) as hub:
        info = hub.HfApi().model_info(remote.repository, revision=remote.revision, files_metadata=True)
    sizes = {str(file.rfilename): int(file.size or 0) for file in info.siblings or []}
    bundles = [name.partition("/")[0] for name in sizes if name.count("/") == 1 and name.endswith(f"/{MANIFEST}")]
    if len(bundles) != 1:
        found = f"{len(bundles)} bundles" if bundles else "no bundle"
        raise BadDataError(f"{remote.repository} holds {found}", "mmx push BUNDLE makes a repository with one")
    wanted = tuple(n for n in sizes if n.startswith(f"{bundles[0]}/") or n == f"{bundles[0]}{SIGNATURE}")
    if unsafe := [name for name in wanted if not is_inside(name)]:
        raise BadDataError(f"{remote.repository}: {unsafe[0]!r} does not stay inside the bundle")
    size = sum(sizes[name] for name in wanted)
    if len(wanted) > _MOST_FILES or size > _MOST_BYTES:
        raise BadDataError(f"{remote.repository} holds {len(wanted)} files of {size >> 20} MB: that is no bundle")
    if not _COMMIT.fullmatch(str(info.sha)):
        raise BadDataError(f"{remote.repository}: the Hub names no commit", "try again")
    licence = getattr(info.card_data, "license", None)
    return Offer(remote.repository, str(info.sha), bundles[0], wanted, size, str(licence) if licence else None)


def fetch(offer: Offer, out: Path, check: Check) -> Path:
    """Fetch a bundle to ``out``, whole or not at all; what a failed fetch left is gone on with.

    Args:
        check: compares every file of the folder with the hashes in its manifest and records, or raises.

    Raises:
        UsageError: something else is at ``out``, or it cannot be written.
        EnvironmentMissing: the Hub cannot be reached, or the disk is full.
        BadDataError: what came is no whole bundle; it is removed.
    """
    if out.exists():
        raise UsageError(f"{out} exists", "--out names another place")
    part = out.parent / f".{out.name}.{offer.commit[:12]}.part"
    with write_errors(out):
        part.mkdir(parents=True, exist_ok=True)
    with client(offer.repository) as hub:
        names = list(offer.files)
        hub.snapshot_download(offer.repository, revision=offer.commit, local_dir=part, allow_patterns=names)
    try:
        check(part / offer.bundle)
    except MmxError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    with write_errors(out):
        if (signature := part / f"{offer.bundle}{SIGNATURE}").is_file():
            signature.replace(signature_of(out))
        _rename(part / offer.bundle, out)
    shutil.rmtree(part, ignore_errors=True)
    return out


def signature_of(bundle: Path) -> Path:
    """Where a bundle's signature is: beside it, so that the folder is as it was signed."""
    return bundle.absolute().with_name(bundle.absolute().name + SIGNATURE)


def _rename(part: Path, out: Path) -> None:
    try:
        part.rename(out)
    except OSError as e:
        if e.errno not in (errno.EEXIST, errno.ENOTEMPTY) or _identity(part) != _identity(out):
            raise  # unless another process has fetched the very same meanwhile


def _identity(bundle: Path) -> str:
    return sha256_of(bundle / MANIFEST)


def _only_folder(folder: Path) -> Path | None:
    """The one bundle in a folder of the cache."""
    found = [path for path in folder.glob("*") if (path / MANIFEST).is_file() and not path.name.startswith(".")]
    return found[0] if len(found) == 1 else None


@contextmanager
def client(repository: str) -> Iterator[Any]:
    """The Hub's client; one line for whatever it and its HTTP library raise: they have no base class in common."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as e:
        raise missing_extra("huggingface_hub", "hub") from e
    disable_progress_bars()
    try:
        yield huggingface_hub
    except MmxError:
        raise
    except Exception as e:
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise EnvironmentMissing(
            f"{repository} cannot be reached on the Hub: {reason}", "check its name and the network; run it again"
        ) from e
