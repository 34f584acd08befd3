"""The utterances of a processed data set as samples: preprocessed once, then kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmx.datasets.processed import Item
from mmx.datasets.reading import read_media, read_utterance
from mmx.datasets.table import Clip
from mmx.runtime.errors import BadDataError
from mmx.runtime.files import sha256_of, whole_file
from mmx.runtime.machine import user_cache
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.text import Tokenizer
from mmx.runtime.types import Sample

HELD_BYTES = 2**30  # samples kept in memory, for sets that fit
_CACHE_VERSION = 2  # raised when the preprocessing code changes what it makes

Progress = Callable[[int, int], None]
"""Called with what is done and how much there is."""


class Utterances:
    """Samples of one split by index, preprocessed once and then read from the cache.

    Args:
        items: what is on disk. preprocessing: how it becomes samples. face_nets: the detector's ONNX files by name.
        tokenizer: of the checkpoint; None: samples have no text.
        cache: a folder; None: in the user's cache folder for mmx.

    Attributes: ``items``; ``targets``: int64 [utterances, labels]; ``spec``, ``tokenizer``: of the samples.
    """

    def __init__(
        self,
        items: Sequence[Item | Clip],
        preprocessing: Preprocessing,
        face_nets: dict[str, Path],
        tokenizer: Tokenizer | None,
        *,
        cache: Path | None = None,
    ) -> None:
        self.items = list(items)
        self.targets = np.array([item.target for item in items], np.int64)
        self.spec, self.tokenizer, self._face_nets = preprocessing, tokenizer, face_nets
        self._folder = cache or user_cache("samples")
        spec = {name: part for name, part in asdict(preprocessing).items() if name not in ("text", "quality")}
        nets = {name: sha256_of(path) for name, path in face_nets.items()}
        self._key = json.dumps([_CACHE_VERSION, spec, nets], sort_keys=True)
        self._hashes: dict[Path, str] = {}
        self._held: dict[int, Sample] = {}
        self._room = HELD_BYTES

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        if index in self._held:
            return self._held[index]
        sample = self._load(self.items[index])
        self._room -= sample.faces.nbytes + sample.pieces.nbytes
        if self._room > 0:
            self._held[index] = sample
        return sample

    def _load(self, item: Item | Clip) -> Sample:
        path = self._folder / f"{self._digest(item)}.npz"
        arrays = _read(path)
        if arrays is None:
            sample = read_utterance(item, self.spec, self.tokenizer, self.detector)
            arrays = (sample.faces, sample.pieces)
            _write(path, arrays)
        return Sample(None if self.tokenizer is None else self.tokenizer.encode(item.text)[0], *arrays)

    def sound(self, index: int) -> tuple[NDArray[np.float32], int]:
        """An utterance's sound, float32 [n], and its rate in Hz; kept in the cache in 16 bits."""
        item = self.items[index]
        path = self._folder / f"{self._digest(item)}.sound.npz"
        try:
            with np.load(path, allow_pickle=False) as kept:
                return kept["sound"].astype(np.float32) / np.float32(32767), int(kept["rate"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            media = read_media(item, self.spec)
            whole = np.rint(np.clip(media.sound, -1, 1) * 32767).astype(np.int16)
            with whole_file(path) as part, part.open("wb") as file:
                np.savez(file, sound=whole, rate=media.rate)
            return whole.astype(np.float32) / np.float32(32767), media.rate

    @cached_property
    def detector(self) -> FaceDetector:
        """What finds the faces; loaded when the first are looked for."""
        return FaceDetector(self._face_nets, self.spec.faces)

    def prepare(self, progress: Progress | None = None) -> list[str]:
        """Preprocess what is not in the cache yet. A clip of a table that cannot be read is left out; returns why.

        Raises:
            BadDataError: an utterance of a processed set is damaged, or no clip can be read.
        """
        left_out: dict[int, str] = {}
        for index, item in enumerate(self.items):
            try:
                self[index]
            except BadDataError as e:
                if not isinstance(item, Clip):
                    raise
                left_out[index] = f"line {item.line} is left out: {e.message}"
            if progress:
                progress(index + 1, len(self))
        if left_out:
            if len(left_out) == len(self):
                raise BadDataError(f"none of {len(self)} clips can be read: {next(iter(left_out.values()))}")
            kept = [index for index in range(len(self)) if index not in left_out]
            self._held = {new: self._held[old] for new, old in enumerate(kept) if old in self._held}
            self.items, self.targets = [self.items[old] for old in kept], self.targets[kept]
        return list(left_out.values())

    def digest(self) -> str:
        """SHA-256 over the files' contents, the words, the targets and the preprocessing: a copy has the same."""
        total = hashlib.sha256()
        for item in self.items:
            total.update(f"{self._digest(item)} {item.text!r} {item.target}\n".encode())
        return total.hexdigest()

    def _digest(self, item: Item | Clip) -> str:
        if isinstance(item, Clip):
            files, span = [item.path], f"{item.start} {item.end}"
        else:
            files, span = [*item.chosen(self.spec), item.audio], ""
        hashes = [self._hash(path) for path in files]
        return hashlib.sha256(f"{self._key}{hashes}{span}".encode()).hexdigest()[:40]

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:  # clips of a table share their file
            self._hashes[path] = sha256_of(path)
        return self._hashes[path]


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Faces and pieces from the cache; None where they are not, or are damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["faces"], arrays["pieces"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, arrays: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(file, faces=arrays[0], pieces=arrays[1])
