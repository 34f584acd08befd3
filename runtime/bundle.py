"""A bundle on disk: the folder ``ckpt.mmx`` that ``mmx export`` made, opened without trusting it.

The manifest lists every file with its SHA-256 and is never rewritten, so its own SHA-256 is the bundle's identity.
Opening rejects a file that is missing, changed or not listed, a path or link that leaves the folder, and a graph that
keeps its weights elsewhere. Variants of the graph are under ``variants/``, each with its own list.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from mmx.runtime.arguments import as_path
from mmx.runtime.domain import Domain
from mmx.runtime.errors import BadDataError, MmxError, UsageError
from mmx.runtime.external_data import external_locations
from mmx.runtime.files import UNFINISHED, sha256_of
from mmx.runtime.hub import is_remote, local
from mmx.runtime.manifest import GraphSpec, Manifest
from mmx.runtime.manifest_reader import FACE_NETS, MANIFEST, VARIANTS, is_inside, manifest_bytes, parse_manifest
from mmx.runtime.probabilities import Fits
from mmx.runtime.records import DomainRecord, GraphRecord, ProbabilitiesRecord
from mmx.runtime.signatures import verify_if_asked
from mmx.runtime.variants import PassedOver, Variant, check_files, list_variants

_ATTEMPTS = 5  # to open a bundle that is being replaced
_AGAIN = "run mmx export again"


class BundleReplaced(BadDataError):
    """Another bundle has taken the place of the one that was opened."""

    def __init__(self, path: Path, how: str) -> None:
        super().__init__(f"{path} was replaced while it was used: {how}", "run the command again")


@dataclass(frozen=True)
class Graph:
    """One graph of a bundle, in one precision.

    Attributes:
        path, sha256: of the ONNX file.
        spec: its inputs and outputs; ``spec.parity`` is what was measured when it was made.
        variant: its folder; None for the FP32 graph.
    """

    path: Path
    sha256: str
    spec: GraphSpec
    variant: Variant | None = None


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: the folder. manifest: what its manifest.json holds.
        identity: SHA-256 of manifest.json: the same for the same system, preprocessing and weights.
        variants: derived from its graph, newest first, as of when the bundle was opened.
        passed_over: other folders under ``variants/``, and why they are not used.
        verify: whether files are compared with their hashes before they are used.
    """

    path: Path
    manifest: Manifest
    identity: str = ""
    variants: tuple[Variant, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    verify: bool = True
    _checks: Mapping[str, Future[None]] = field(default_factory=dict, repr=False, compare=False)  # of files, by name
    _verified: set[Path] = field(default_factory=set, repr=False, compare=False)  # of variants

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True, beside: bool = False, expect: str | None = None) -> Bundle:
        """Open the bundle folder at ``path``.

        Args:
            path: the folder (``ckpt.mmx``), or ``hf://owner/name@revision``, see ``hub.local``.
            verify: compare the SHA-256 of every file (about 0.5 s for 300 MB); a variant's when it is asked for. The
                other checks are always made.
            beside: do so for the FP32 graph in another thread; ``graph`` then waits for it.
            expect: the ``identity`` that it must have: a worker process uses the bundle of the process that started it.

        Raises:
            UsageError: ``path`` is not a bundle folder.
            BadDataError: the bundle is unfinished, damaged or hostile; the message names the file.
            BundleReplaced: it is not the expected one.
            EnvironmentMissing: the Hub cannot be reached.

        With ``MMX_VERIFY_KEY``, the bundle's signature is verified too (``signatures``).
        """
        folder = fetched(path) if is_remote(path) else as_path("the bundle", path)
        for attempt in range(1, _ATTEMPTS + 1):
            _check_folder(folder)
            content = manifest_bytes(folder / MANIFEST)
            identity = hashlib.sha256(content).hexdigest()
            if expect is not None and identity != expect:
                raise _replaced(folder, expect, identity)
            try:
                bundle = cls(folder, parse_manifest(content, folder / MANIFEST), identity, verify=verify)
                with bundle.unreplaced():
                    opened = bundle._checked(beside).refreshed()
                    if expect is None:  # else the process that expects it has verified it
                        verify_if_asked(folder)
                    return opened
            except BundleReplaced:
                if expect is not None or attempt == _ATTEMPTS:
                    raise
            except OSError as e:
                raise BadDataError(f"{e.filename or folder} cannot be read: {e.strerror}", _AGAIN) from e
        raise AssertionError

    @classmethod
    def open_parts(cls, path: Path, parts: tuple[str, ...]) -> Bundle:
        """A folder with a bundle's manifest and only those of its files whose names begin with one of ``parts``.

        Raises:
            BadDataError: one of them is missing, or is not the file that the manifest lists.
        """
        content = manifest_bytes(path / MANIFEST)
        manifest = parse_manifest(content, path / MANIFEST)
        for name in manifest.files:
            if name.startswith(parts):
                if not (path / name).is_file():
                    raise BadDataError(f"{path / name} is missing", _AGAIN)
                _check_hash(path, name, manifest)
        return cls(path, manifest, hashlib.sha256(content).hexdigest())

    def graph(self, precision: str = "fp32") -> Graph:
        """The graph of a precision, unchanged.

        Raises:
            UsageError: the bundle has none; the message names the others, and why one is not used.
            BadDataError: it was changed, or keeps its weights elsewhere.
        """
        if precision == "fp32":
            spec = self.manifest.graphs["fp32"]
            if spec.file in self._checks:
                self._checks[spec.file].result()
            return Graph(self.path / spec.file, self.manifest.files[spec.file], spec)
        variant = self._newest(precision)
        if variant is None:
            unused = [f"{each.name}: {each.reason}" for each in self.passed_over if each.precision == precision]
            hint = f"it has: {', '.join(self.precisions)}" + "".join(f"; passed over {why}" for why in unused)
            raise UsageError(f"{self.path} has no {precision} graph", hint)
        self._verify(variant)
        return self._graph_of(variant)

    def described(self, precision: str) -> Graph | None:
        """As ``graph``, but unverified; None where there is no graph of that precision."""
        if precision == "fp32":
            spec = self.manifest.graphs["fp32"]
            return Graph(self.path / spec.file, self.manifest.files[spec.file], spec)
        variant = self._newest(precision)
        return None if variant is None else self._graph_of(variant)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of its graphs, fp32 first."""
        return ("fp32", *sorted({v.record.precision for v in self.variants if v.record.kind == "graph"}))

    @property
    def calibration(self) -> Fits:
        """The newest calibrated probabilities by set of modalities, of the manifest's labels; empty without any."""
        for variant in self.variants:
            if isinstance(variant.record, ProbabilitiesRecord):
                fits = variant.record.subsets
                if all(tuple(fit.labels) == self.manifest.labels for fit in fits.values()):
                    return fits
        return {}

    @property
    def domain(self) -> Domain:
        """What its training data look and sound like (``domain``); empty where that is not known."""
        records = (variant.record for variant in self.variants)
        return next((each.kinds for each in records if isinstance(each, DomainRecord)), {})

    def refreshed(self) -> Bundle:
        """The same bundle with the variants that it has now.

        Raises:
            BundleReplaced: another bundle has taken its place.
        """
        with self.unreplaced():
            found, passed = list_variants(self.path / VARIANTS, self.graph_sha256)
        return replace(self, variants=found, passed_over=passed)

    @property
    def graph_sha256(self) -> str:
        """Of the FP32 graph: what every variant was derived from."""
        return self.manifest.files[self.manifest.graphs["fp32"].file]

    @contextmanager
    def unreplaced(self) -> Iterator[None]:
        """What is read from the bundle's files inside the block is of this bundle.

        Raises:
            BundleReplaced: an export has put another in its place meanwhile, whatever came of the block.
        """
        try:
            yield
        except (OSError, MmxError):
            self._require_same()
            raise
        self._require_same()

    @property
    def tokenizer_dir(self) -> Path | None:
        """The folder with ``spiece.model`` or ``tokenizer.json``; None for a bundle made without a tokenizer."""
        return self._folder("tokenizer")

    @property
    def face_nets(self) -> dict[str, Path] | None:
        """The detector's ONNX files by name (pnet, rnet, onet); None for a bundle without them."""
        folder = self._folder("faces")
        return None if folder is None else {net: folder / f"{net}.onnx" for net in FACE_NETS}

    def _folder(self, name: str) -> Path | None:
        return self.path / name if any(file.startswith(f"{name}/") for file in self.manifest.files) else None

    def _newest(self, precision: str) -> Variant | None:
        return next((v for v in self.variants if v.record.kind == "graph" and v.record.precision == precision), None)

    def _graph_of(self, variant: Variant) -> Graph:
        record, base = variant.record, self.manifest.graphs["fp32"]
        assert isinstance(record, GraphRecord)
        spec = replace(
            base, file=record.graph, precision=record.precision, opset=record.opset, parity=record.verification
        )
        return Graph(variant.file, variant.sha256, spec, variant)

    def _verify(self, variant: Variant) -> None:
        """Check a variant's bytes, once. Raises BadDataError."""
        if variant.path in self._verified:
            return
        with self.unreplaced():
            if self.verify:
                check_files(variant)
            for name in variant.record.files:
                if name.endswith(".onnx"):
                    _check_weights_inside(variant.path, name, variant.record.files)
        self._verified.add(variant.path)

    def _checked(self, beside: bool) -> Bundle:
        """This bundle with its files checked, or being checked. Raises BadDataError."""
        files, graph = self.manifest.files, self.manifest.graphs["fp32"].file
        _check_listing(self.path, self.manifest)
        for name in files if self.verify else ():
            if not (beside and name == graph):
                _check_hash(self.path, name, self.manifest)
        for name in files:
            if name.endswith(".onnx"):
                _check_weights_inside(self.path, name, files)
        if not (self.verify and beside):
            return self
        hashing = ThreadPoolExecutor(1, "mmx-hash")  # it needs no interpreter: imports go on meanwhile
        check = hashing.submit(_check_hash, self.path, graph, self.manifest)
        hashing.shutdown(wait=False)
        return replace(self, _checks={graph: check})

    def _require_same(self) -> None:
        try:
            now = hashlib.sha256(manifest_bytes(self.path / MANIFEST)).hexdigest()
        except BadDataError:
            now = "gone"
        if now != self.identity:
            raise _replaced(self.path, self.identity, now)


def fetched(name: str) -> Path:
    """The folder of a bundle on the Hub (``hf://owner/name@revision``), fetched unless it is here: ``hub.local``."""
    return local(name, check_whole)


def check_whole(folder: Path) -> None:
    """Compare every file of a bundle and its variants with their hashes. Raises what ``Bundle.open`` raises."""
    for variant in Bundle.open(folder).variants:
        check_files(variant)


def _replaced(path: Path, had: str, has: str) -> BundleReplaced:
    return BundleReplaced(path, f"its manifest was {had[:12]} and is {has[:12]}")


def _check_hash(folder: Path, name: str, manifest: Manifest) -> None:
    expected = manifest.files[name]
    if (found := sha256_of(folder / name)) != expected:
        raise BadDataError(
            f"{folder / name} was changed: SHA-256 {found[:12]}..., the manifest has {expected[:12]}...", _AGAIN
        )


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        hint = f"mmx export {folder}" if folder.suffix in (".pt", ".pth") else "give the .mmx folder"
        raise UsageError(f"{folder} is a file, not a bundle folder", hint)
    if not folder.is_dir():
        raise UsageError(f"{folder} does not exist", "make it with mmx export ckpt.pt")
    if UNFINISHED in folder.resolve().name:
        raise BadDataError(f"{folder} is what an interrupted export left", f"{_AGAIN}; it clears this folder away")


def _check_listing(folder: Path, manifest: Manifest) -> None:
    """Every listed file is there as a plain file, and beside them only what lists itself, under ``variants/``."""
    present = set()
    for path, mode in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if not stat.S_ISREG(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a plain file"
            raise BadDataError(f"{path} is {kind}; a bundle holds plain files", _AGAIN)
        if name != MANIFEST and name not in manifest.files:
            raise BadDataError(f"{path} is not in the manifest", f"remove it, or {_AGAIN}")
        present.add(name)
    if absent := sorted(set(manifest.files) - present):
        raise BadDataError(f"{folder / absent[0]} is missing", _AGAIN)


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    """Each entry under ``folder`` that is not a folder, and its mode; links are not followed, variants not entered."""
    folders = [folder]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            mode = path.lstat().st_mode
            if not stat.S_ISDIR(mode):
                yield path, mode
            elif path != folder / VARIANTS:
                folders.append(path)


def _check_weights_inside(folder: Path, name: str, files: Mapping[str, str]) -> None:
    for location in sorted(external_locations(folder / name)):
        beside = (PurePosixPath(name).parent / location).as_posix()
        if not is_inside(location) or beside not in files:
            raise BadDataError(
                f"{folder / name} keeps weights in {location!r}, which is not a file of this bundle",
                "do not load it; " + _AGAIN,
            )
