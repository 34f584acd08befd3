"""A bundle on disk: the folder ``ckpt.mmx`` that ``mmx export`` made, opened without trusting it.

The manifest lists every file with its SHA-256. Opening refuses a file that is missing, changed or not listed, a path or
link that leaves the folder, and a graph that keeps its weights elsewhere.
"""

from __future__ import annotations

import hashlib
import math
import re
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.external_data import external_locations
from mmx.runtime.manifest import Manifest, read_manifest

MANIFEST = "manifest.json"
FACE_NETS = ("pnet", "rnet", "onet")
UNFINISHED = ".tmp-"  # in the name of a folder that an export is still writing, or was killed writing
TRIALS = "trials.json"  # which backend was the fastest, by machine: see runtime.backends.trial
ENGINES = "engines"  # the folder of built engines; each has its own sidecar with its SHA-256
# Nothing here is loaded on the manifest's word: engines go by their sidecar, a variant is listed once it is whole,
# trials only choose between backends.
ADDED_LATER = re.compile(rf"{ENGINES}/[^/]+|model\.[a-z0-9]+\.onnx|{re.escape(TRIALS)}(\.\d+)?")
_MANIFEST_LIMIT = 16 * 2**20
_AGAIN = "run mmx export again"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. ``path`` is the folder, ``manifest`` what its manifest.json says."""

    path: Path
    manifest: Manifest
    _checks: Mapping[str, Future[None]] = field(default_factory=dict, repr=False, compare=False)  # of graphs, by file

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True, beside: bool = False) -> Bundle:
        """Open the bundle folder at ``path``.

        Args:
            path: the folder (``ckpt.mmx``).
            verify: compare the SHA-256 of every file (about 0.5 s for 300 MB). The other checks are always made.
            beside: do so for the graphs in a thread of its own; ``graph_path`` then waits for it.

        Raises:
            UsageError: ``path`` is not a bundle folder.
            BadDataError: the bundle is unfinished, damaged or hostile; the message names the file.
        """
        folder = Path(path)
        _check_folder(folder)
        manifest = read_manifest(folder / MANIFEST)
        _check_manifest(manifest, folder / MANIFEST)
        _check_listing(folder, manifest)
        graphs = [graph.file for graph in manifest.graphs.values()] if beside else []
        if verify:
            for name in manifest.files:
                if name not in graphs:
                    _check_hash(folder, name, manifest)
        for name in manifest.files:
            if name.endswith(".onnx"):
                _check_weights_inside(folder, name, manifest)
        if not (verify and beside):
            return cls(folder, manifest)
        hashing = ThreadPoolExecutor(1, "mmx-hash")  # it needs no interpreter: imports go on meanwhile
        checks = {name: hashing.submit(_check_hash, folder, name, manifest) for name in graphs}
        hashing.shutdown(wait=False)
        return cls(folder, manifest, checks)

    def graph_path(self, precision: str = "fp32") -> Path:
        """The ONNX file of a precision, unchanged.

        Raises:
            UsageError: the bundle has none; those there are are named.
            BadDataError: it was changed (if the bundle was opened with ``beside``).
        """
        spec = self.manifest.graphs.get(precision)
        if spec is None:
            raise UsageError(
                f"{self.path} has no {precision} graph", f"it has: {', '.join(sorted(self.manifest.graphs))}"
            )
        if spec.file in self._checks:
            self._checks[spec.file].result()
        return self.path / spec.file

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


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(folder: Path, name: str, manifest: Manifest) -> None:
    expected = manifest.files[name]
    if (found := sha256_of(folder / name)) != expected:
        raise BadDataError(
            f"{folder / name} was changed: SHA-256 {found[:12]}..., the manifest says {expected[:12]}...", _AGAIN
        )


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        hint = f"mmx export {folder}" if folder.suffix in (".pt", ".pth") else "give the .mmx folder"
        raise UsageError(f"{folder} is a file, not a bundle folder", hint)
    if not folder.is_dir():
        raise UsageError(f"{folder} does not exist", "make it with mmx export ckpt.pt")
    if UNFINISHED in folder.resolve().name:
        raise BadDataError(f"{folder} is what an interrupted export left", f"{_AGAIN}; it clears this folder away")
    manifest = folder / MANIFEST
    if manifest.is_symlink() or (manifest.exists() and not manifest.is_file()):
        raise BadDataError(f"{manifest} is not a plain file", _AGAIN)
    if manifest.exists() and manifest.stat().st_size > _MANIFEST_LIMIT:
        raise BadDataError(f"{manifest} is larger than {_MANIFEST_LIMIT >> 20} MB", _AGAIN)


def _check_manifest(manifest: Manifest, where: Path) -> None:
    """What the fields' types cannot say: that they agree with each other and lie in a usable range."""

    def need(fine: bool, problem: str) -> None:
        if not fine:
            raise BadDataError(f"{where}: {problem}", _AGAIN)

    for name, digest in manifest.files.items():
        need(_is_inside(name), f"files: {name!r} does not stay inside the bundle")
        need(name != MANIFEST, f"files: {MANIFEST} cannot list itself")
        need(len(digest) == 64, f"files: {name!r} has no SHA-256")
    need("fp32" in manifest.graphs, "graphs: there is no fp32 graph")
    for precision, graph in manifest.graphs.items():
        need(graph.file in manifest.files, f"graphs: the {precision} graph {graph.file!r} is not among the files")
        need(graph.file.endswith(".onnx"), f"graphs: {graph.file!r} is not an .onnx file")
    need(0 < len(manifest.labels) == len(set(manifest.labels)), "labels: none, or one twice")
    need(len(manifest.thresholds) == len(manifest.labels), "thresholds: not one for each label")
    need(all(0 <= t <= 1 for t in manifest.thresholds), "thresholds: one is no probability")
    fused = set(manifest.fusion_weights)  # empty for a system that does not fuse logits
    need(not fused or fused == set(manifest.modalities), "fusion_weights: not one for each modality")
    need(all(map(math.isfinite, manifest.fusion_weights.values())), "fusion_weights: one is not finite")
    faces = [name for name in manifest.files if name.startswith("faces/")]
    expected = [f"faces/{net}.onnx" for net in FACE_NETS]
    need(not faces or sorted(faces) == sorted(expected), f"files: faces/ does not hold {', '.join(expected)}")

    video, face, mel, text = (getattr(manifest.preprocessing, part) for part in ("video", "faces", "mel", "text"))
    need(1e-3 <= video.interval_s <= 3600 and video.every_nth >= 0, "preprocessing: video is out of range")
    need(video.no_face in ("center", "skip", "mask", "error"), f"preprocessing: no_face is {video.no_face!r}")
    need(face.min_face >= 1 and 0 < face.factor < 1 and 1 <= face.size <= 1024, "preprocessing: faces is out of range")
    need(all(map(math.isfinite, (*face.thresholds, *face.mean, *face.std))), "preprocessing: faces is not finite")
    sizes = (mel.sample_rate, mel.n_fft, mel.hop, mel.n_mels, mel.columns)
    need(all(1 <= size <= 2**20 for size in sizes), "preprocessing: mel is out of range")
    need(2 <= text.max_tokens <= 2**16, "preprocessing: max_tokens is out of range")
    need(0 < manifest.preprocessing.max_segment_s <= 86400, "preprocessing: max_segment_s is out of range")


def _is_inside(name: str) -> bool:
    """Whether ``name`` is a plain relative path: nothing that climbs, starts at a root or means two things."""
    plain = PurePosixPath(name)
    return (
        bool(plain.parts)
        and not plain.is_absolute()
        and ".." not in plain.parts
        and str(plain) == name
        and not set(name) & set("\\:\0")
    )


def _check_listing(folder: Path, manifest: Manifest) -> None:
    """Every listed file is there as a plain file, and nothing else is but engines and what is still being added."""
    present = set()
    for path, mode in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if not stat.S_ISREG(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "no plain file"
            raise BadDataError(f"{path} is {kind}; a bundle holds plain files", _AGAIN)
        if name != MANIFEST and name not in manifest.files and not ADDED_LATER.fullmatch(name):
            raise BadDataError(f"{path} is not in the manifest", f"remove it, or {_AGAIN}")
        present.add(name)
    if absent := sorted(set(manifest.files) - present):
        raise BadDataError(f"{folder / absent[0]} is missing", _AGAIN)


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    """Each entry under ``folder`` that is no folder, and its mode; links are not followed."""
    folders = [folder]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # it was being written, and got its name just now
                continue
            if stat.S_ISDIR(mode):
                folders.append(path)
            else:
                yield path, mode


def _check_weights_inside(folder: Path, name: str, manifest: Manifest) -> None:
    for location in sorted(external_locations(folder / name)):
        beside = (PurePosixPath(name).parent / location).as_posix()
        if not _is_inside(location) or beside not in manifest.files:
            raise BadDataError(
                f"{folder / name} keeps weights in {location!r}, which is not a file of this bundle",
                "do not load it; " + _AGAIN,
            )
