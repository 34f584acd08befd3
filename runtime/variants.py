"""Variants, derived from a bundle's graph: each is a folder under ``variants/`` with its files and a record.

A folder appears there whole (``export.variant_writer`` renames it into place) and is never edited. A reader uses those
that were derived from its graph, and gives a reason for each of the others; none of them is an error.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from mmx.runtime.domain import SIZES
from mmx.runtime.errors import BadDataError
from mmx.runtime.files import sha256_of
from mmx.runtime.from_json import from_plain, parse_object, read_limited
from mmx.runtime.manifest_reader import is_digest
from mmx.runtime.records import (
    KINDS,
    SCHEMA_VERSION,
    DomainRecord,
    EngineRecord,
    EvaluationRecord,
    GraphRecord,
    ProbabilitiesRecord,
    Record,
)

RECORD = "record.json"
HIDDEN = "."  # begins the names of folders that are still being written, or were left by a kill
RECORD_ALONE = (ProbabilitiesRecord, EvaluationRecord, DomainRecord)  # kinds without files
_LIMIT = 4 * 2**20  # bytes of a record
_AGAIN = "remove its folder, and make it again"


@dataclass(frozen=True)
class Variant:
    """A variant's folder and what it records."""

    path: Path
    record: Record

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.name

    @property
    def file(self) -> Path:
        """The graph, the engine, or whatever the one file is."""
        match self.record:
            case GraphRecord(graph=name) | EngineRecord(engine=name):
                return self.path / name
        return self.path / next(iter(self.record.files))

    @property
    def sha256(self) -> str:
        """Of ``file``, as recorded."""
        return self.record.files[self.file.name]


@dataclass(frozen=True)
class PassedOver:
    """A folder under ``variants/`` that is not used, and why. ``precision``: as recorded, where that can be read."""

    name: str
    reason: str
    precision: str = ""


def list_variants(folder: Path, source: str) -> tuple[tuple[Variant, ...], tuple[PassedOver, ...]]:
    """The variants of one graph in ``folder``, newest first, and what else is there. Files are not hashed.

    Args:
        folder: need not exist.
        source: SHA-256 of the FP32 graph.
    """
    everything, passed = read_all(folder)
    current: list[Variant] = []
    newest: dict[str, str] = {}  # graph by precision
    for variant in everything:
        if isinstance(variant.record, GraphRecord) and variant.record.source == source:
            newest.setdefault(variant.record.precision, variant.sha256)
    for variant in everything:
        record = variant.record
        parents = record.made_from if isinstance(record, GraphRecord) else {}
        stale = next((precision for precision, digest in parents.items() if newest.get(precision) != digest), None)
        if record.source != source:
            reason = f"it was made from the graph {record.source[:12]}, the bundle has {source[:12]}"
        elif stale:
            reason = f"it was made from another {stale} graph than the bundle has now"
        else:
            current.append(variant)
            continue
        passed.append(PassedOver(variant.name, reason, record.precision))
    return tuple(current), tuple(passed)


def read_all(folder: Path) -> tuple[list[Variant], list[PassedOver]]:
    """Every readable variant in ``folder``, whatever it was made from, newest first; and why the others are not."""
    found: list[Variant] = []
    passed: list[PassedOver] = []
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith(HIDDEN))
    except FileNotFoundError:
        return [], []
    except OSError as e:
        return [], [PassedOver(folder.name, e.strerror or str(e))]
    for path in paths:
        try:
            found.append(read_variant(path))
        except FileNotFoundError:  # it is being removed
            continue
        except BadDataError as e:
            passed.append(PassedOver(path.name, e.message))
        except OSError as e:
            passed.append(PassedOver(path.name, e.strerror or str(e)))
    found.sort(key=lambda variant: (variant.record.created, variant.name), reverse=True)
    return found, passed


def read_variant(path: Path) -> Variant:
    """Read one variant's record and see that its folder holds just what that lists. Its files are not hashed.

    Raises:
        BadDataError: it is no such folder; the message names the file.
        FileNotFoundError: it is gone.
    """
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise BadDataError(f"{path} is not a folder", _AGAIN)
    try:
        record = read_record(path / RECORD)
    except FileNotFoundError as e:
        path.lstat()
        raise BadDataError(f"{path} has no {RECORD}", _AGAIN) from e
    _check_listing(path, record)
    return Variant(path, record)


def read_record(path: Path) -> Record:
    """Read and check a record.json.

    Raises:
        BadDataError: not JSON, of an unknown schema_version or kind, or a field that does not fit.
        FileNotFoundError: there is none.
    """
    raw = parse_object(read_limited(path, _LIMIT, _AGAIN), str(path), _AGAIN)
    if raw.get("schema_version") != SCHEMA_VERSION:
        version = raw.get("schema_version")
        raise BadDataError(f"{path} has schema_version {version!r:.80}; this mmx reads {SCHEMA_VERSION}", _AGAIN)
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadDataError(f"{path}: kind is {kind!r:.80}; this mmx knows {', '.join(KINDS)}", _AGAIN)
    record: Record = from_plain(KINDS[kind], raw, str(path))
    _check_record(record, path)
    return record


def check_files(variant: Variant) -> None:
    """Hash every file of a variant.

    Raises:
        BadDataError: one was changed, or is gone.
    """
    for name, digest in variant.record.files.items():
        path = variant.path / name
        try:
            found = sha256_of(path)
        except OSError as e:
            raise BadDataError(f"{path} cannot be read: {e.strerror}", _AGAIN) from e
        if found != digest:
            raise BadDataError(f"{path} was changed: SHA-256 {found[:12]}..., its record has {digest[:12]}...", _AGAIN)


def _check_record(record: Record, where: Path) -> None:
    def need(fine: bool, problem: str) -> None:
        if not fine:
            raise BadDataError(f"{where}: {problem}", _AGAIN)

    need(is_digest(record.source), "source is no SHA-256")
    need(bool(record.files) != isinstance(record, RECORD_ALONE), "files: not those of its kind")
    for name, digest in record.files.items():
        need("/" not in name and "\\" not in name and name not in (".", "..", RECORD), f"files: {name!r} is no name")
        need(is_digest(digest), f"files: {name!r} has no SHA-256")
    if isinstance(record, GraphRecord):
        need(record.graph in record.files and record.graph.endswith(".onnx"), f"graph: {record.graph!r} is no graph")
    if isinstance(record, ProbabilitiesRecord):
        labels = {tuple(fit.labels) for fit in record.subsets.values()}
        need(len(labels) == 1 and labels != {()}, "subsets: there are none, or not all of the same labels")
    if isinstance(record, DomainRecord):
        sizes = {name: {len(each.mean), *map(len, each.whitening)} for name, each in record.kinds.items()}
        need(all(found == {SIZES.get(name)} for name, found in sizes.items()), "kinds: not of what mmx describes")
    if isinstance(record, EngineRecord):
        names = {spec.name for spec in record.inputs}
        need(record.engine in record.files, f"engine: {record.engine!r} is not among the files")
        need(all(set(profile.shapes) == names for profile in record.profiles), "profiles: not of the engine's inputs")


def _check_listing(path: Path, record: Record) -> None:
    """Every recorded file is there as a plain file, and nothing else is."""
    present = set()
    for entry in path.iterdir():
        if not stat.S_ISREG(entry.lstat().st_mode):
            raise BadDataError(f"{entry} is not a plain file", _AGAIN)
        present.add(entry.name)
    if absent := sorted(set(record.files) - present):
        raise BadDataError(f"{path / absent[0]} is missing", _AGAIN)
    if extra := sorted(present - set(record.files) - {RECORD}):
        raise BadDataError(f"{path / extra[0]} is not in its {RECORD}", _AGAIN)
