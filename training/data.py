"""The processed data sets as samples: found on disk, put through mmx's own preprocessing once, kept in a cache."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from mmx.benchmarks.cache import bench_folder
from mmx.benchmarks.workload.datasets import LABELS, Item, read_processed
from mmx.benchmarks.workload.sources import read_utterance
from mmx.runtime.bundle import sha256_of
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.text import Tokenizer
from mmx.runtime.types import Sample
from mmx.training.synthetic.writer import is_synthetic

SPLITS = ("train", "valid", "test")
HELD_BYTES = 2**30  # samples kept in memory, for sets that fit
_CACHE_VERSION = 1  # raised when the preprocessing code changes what it makes
_WHERE = "name the folder that holds IEMOCAP_RAW_PROCESSED or MOSEI_RAW_PROCESSED and the *_SPLIT beside it"

Progress = Callable[[int, int], None]
"""Called with what is done and how much there is."""


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


class Utterances:
    """Samples of one split by index, preprocessed once and then read from the cache.

    Args:
        items: what is on disk. preprocessing: how it becomes samples. face_nets: the detector's ONNX files by name.
        tokenizer: of the checkpoint; None: samples have no text.
        cache: a folder; None: in the user's cache folder for mmx.

    Attributes: ``items``; ``truths``: int64 [utterances, labels].
    """

    def __init__(
        self,
        items: Sequence[Item],
        preprocessing: Preprocessing,
        face_nets: dict[str, Path],
        tokenizer: Tokenizer | None,
        *,
        cache: Path | None = None,
    ) -> None:
        self.items = list(items)
        self.truths = np.array([item.truth for item in items], np.int64)
        self._spec, self._tokenizer, self._face_nets = preprocessing, tokenizer, face_nets
        self._folder = cache or bench_folder().parent / "samples"
        spec = {name: part for name, part in asdict(preprocessing).items() if name != "text"}
        nets = {name: sha256_of(path) for name, path in face_nets.items()}
        self._key = json.dumps([_CACHE_VERSION, spec, nets], sort_keys=True)
        self._detector: FaceDetector | None = None
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

    def _load(self, item: Item) -> Sample:
        path = self._folder / f"{self._digest(item)}.npz"
        arrays = _read(path)
        if arrays is None:
            if self._detector is None:
                self._detector = FaceDetector(self._face_nets, self._spec.faces)
            sample = read_utterance(item, self._spec, self._tokenizer, self._detector)
            arrays = (sample.faces, sample.pieces)
            _write(path, arrays)
        return Sample(None if self._tokenizer is None else self._tokenizer.encode(item.text)[0], *arrays)

    def prepare(self, progress: Progress | None = None) -> None:
        """Preprocess what is not in the cache yet."""
        for index in range(len(self)):
            self[index]
            if progress:
                progress(index + 1, len(self))

    def digest(self) -> str:
        """SHA-256 over the files' names, sizes and times, the words, the truths and the preprocessing."""
        total = hashlib.sha256()
        for item in self.items:
            total.update(f"{self._digest(item)} {item.text!r} {item.truth}\n".encode())
        return total.hexdigest()

    def _digest(self, item: Item) -> str:
        files = [*item.chosen(self._spec.video), item.audio]
        stats = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.sha256(f"{self._key}{stats}".encode()).hexdigest()[:40]


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Faces and pieces from the cache; None where they are not, or are damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["faces"], arrays["pieces"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, arrays: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, faces=arrays[0], pieces=arrays[1])
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def train_tokenizer(texts: Sequence[str], folder: Path) -> Path:
    """A small unigram ``spiece.model`` with ALBERT's special ids, learned from ``texts``; returns ``folder``.

    For systems that are trained from nothing: the published vocabulary belongs to the published text weights.

    Raises:
        BadDataError: too little text to learn from.
    """
    model = io.BytesIO()  # a model that is trained into a file holds that file's path
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text.lower() for text in texts]),
            model_writer=model,
            model_type="unigram",
            vocab_size=1000,
            hard_vocab_limit=False,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as e:
        raise BadDataError(f"no tokenizer can be learned from {len(texts)} texts: {e}", "give --tokenizer") from e
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".spiece.{os.getpid()}.part"
    part.write_bytes(model.getvalue())
    part.replace(folder / "spiece.model")
    return folder
