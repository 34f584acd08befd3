"""What goes into a bundle beside the graph: the tokenizer and the face detector's nets, found on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from mmx.runtime.bundle import FACE_NETS
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError, missing_extra
from mmx.runtime.manifest import TextSpec
from mmx.runtime.media.text import Tokenizer

# SentencePiece first: the runtime reads it without another package.
TOKENIZER_FILES = ("spiece.model", "tokenizer.json")
_HUB_NAMES = ("models--albert--albert-base-v2", "models--albert-base-v2")


def find_tokenizer(checkpoint: Path, given: Path | None = None) -> Path | None:
    """The tokenizer file to bundle: ``spiece.model`` or ``tokenizer.json``, or None when there is none to be found.

    Looked for in ``given`` alone if it is given (a folder or one of the files), else beside the checkpoint, else in the
    Hugging Face cache (``albert-base-v2``; nothing is downloaded).

    Raises:
        UsageError: ``given`` has neither file.
    """
    if given is not None:
        if given.is_file() and given.name in TOKENIZER_FILES:
            return given
        if (found := _tokenizer_in(given)) is None:
            raise UsageError(f"{given} has no {' or '.join(TOKENIZER_FILES)}", "give --tokenizer the folder of ALBERT")
        return found
    for folder in (checkpoint.parent, *_hub_snapshots()):
        if (found := _tokenizer_in(folder)) is not None:
            return found
    return None


def check_tokenizer(file: Path, vocabulary: int) -> None:
    """Make sure that the tokenizer can be read, and that the system has an embedding for every id it gives.

    Raises:
        BadDataError: it is no tokenizer for this system.
        EnvironmentMissing: a tokenizer.json without the package that reads it.
    """
    Tokenizer.load(file.parent, TextSpec())
    if file.name == "spiece.model":
        size = SentencePieceProcessor(model_file=str(file)).vocab_size()
    else:
        size = len(json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"])
    if size > vocabulary:
        raise BadDataError(
            f"{file} has {size:,} pieces, the checkpoint has embeddings for {vocabulary:,}",
            "give --tokenizer the one that the checkpoint was trained with",
        )


def find_face_nets() -> dict[str, Path]:
    """The MTCNN nets of the package mtcnn-runtime, by name (pnet, rnet, onet).

    The package is located and not imported: importing it would need OpenCV.

    Raises:
        EnvironmentMissing: the package is not installed, or lacks a net.
    """
    spec = importlib.util.find_spec("mtcnnruntime")
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra("mtcnn-runtime, which holds the face detector's weights,", "export")
    weights = Path(spec.submodule_search_locations[0]) / "weights"
    nets = {net: weights / f"{net}.onnx" for net in FACE_NETS}
    for path in nets.values():
        if not path.is_file():
            raise EnvironmentMissing(f"{path} is missing", "pip install --force-reinstall mtcnn-runtime")
    return nets


def copy_tokenizer(file: Path, bundle: Path) -> None:
    """Put the tokenizer ``file`` in the ``tokenizer/`` folder of ``bundle``."""
    (bundle / "tokenizer").mkdir()
    shutil.copyfile(file, bundle / "tokenizer" / file.name)


def _tokenizer_in(folder: Path) -> Path | None:
    return next((folder / name for name in TOKENIZER_FILES if (folder / name).is_file()), None)


def _hub_snapshots() -> list[Path]:
    """Snapshots of albert-base-v2 in the Hugging Face cache, the one that ``main`` names first, then the newest."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    found: list[Path] = []
    for name in _HUB_NAMES:
        snapshots = hub / name / "snapshots"
        if not snapshots.is_dir():
            continue
        main = hub / name / "refs" / "main"
        current = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
        newest_first = sorted(snapshots.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
        found += sorted(newest_first, key=lambda folder: folder.name != current)
    return found
