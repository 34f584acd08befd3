"""``--asr``: which recogniser is meant, and whether it is on this machine. Nothing is ever downloaded here."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from mmx.runtime.arguments import as_text
from mmx.runtime.errors import EnvironmentMissing, UsageError, missing_extra
from mmx.runtime.extras import install_command
from mmx.runtime.speech.recogniser import Recogniser

VARIABLE = "MMX_ASR"
ENTRY_POINTS = "mmx_recognisers"
"""Group of other packages' recognisers: a name -> a callable that takes ``device`` and ``threads``."""

BEST_FIRST = ("large-v3-turbo", "large-v3", "medium", "small", "base", "tiny")
"""Models that ``auto`` looks for in the Hub's cache: multilingual ones, since others cannot detect the language."""


def find_recogniser(asr: str = "auto", *, device: str = "cpu", threads: int = 1) -> Recogniser | None:
    """The recogniser that is meant, loaded.

    Args:
        asr: auto (``MMX_ASR`` if set, else the best multilingual Whisper in the Hub's cache) | none | a folder with a
            CTranslate2 Whisper or an onnx-asr model | the name of a model in the Hub's cache (``tiny``, ``base.en``,
            ``owner/name``)
            | the name of another package's recogniser.

    Returns:
        None for ``none``, and for ``auto`` where this machine has none.

    Raises:
        EnvironmentMissing: what was asked for by name is not on this machine; the hint says how to get it.
        UsageError: it is nothing that mmx knows. BadDataError: the model is damaged.
    """
    chosen = resolve(asr)
    return None if chosen in ("auto", "none") else _loader(chosen)(device=device, threads=threads)


def resolve(asr: str) -> str:
    """What ``asr`` means on this machine: none, a folder, another package's recogniser; auto if there is none here.

    Worker processes are given this, so that all of them use the same model. Loads nothing.

    Raises:
        EnvironmentMissing, UsageError: see ``find_recogniser``.
    """
    as_text("asr", asr)
    chosen = (automatic() or asr) if asr == "auto" else asr
    if chosen in ("auto", "none") or any(point.name == chosen for point in entry_points(group=ENTRY_POINTS)):
        return chosen
    folder = Path(chosen) if Path(chosen).is_dir() else _in_cache(repository_of(chosen))
    if folder is None:
        raise EnvironmentMissing(f"the speech model {chosen} is not on this machine", f"mmx asr pull {chosen}")
    return str(folder.absolute())


def automatic() -> str | None:
    """What ``auto`` means here: ``MMX_ASR``, or the best of ``BEST_FIRST`` in the Hub's cache."""
    return os.environ.get(VARIABLE) or next((name for name in BEST_FIRST if name in cached_models()), None)


def cached_models() -> list[str]:
    """The short names of the Whisper models in the Hub's cache; none where faster-whisper is not installed."""
    if find_spec("faster_whisper") is None or not any(_hub_cache().glob("models--*")):  # importing it takes a second
        return []
    from faster_whisper.utils import _MODELS

    return [name for name, repository in _MODELS.items() if _in_cache(repository) is not None]


def why_none() -> str:
    """What a user can do who has no recogniser: for the answer that leaves the text out."""
    if find_spec("faster_whisper") is None:
        return f"no transcript, and no recogniser: {install_command('asr')}, then mmx asr pull small"
    return "no transcript, and no model to recognise speech: mmx asr pull small, or --asr FOLDER"


def repository_of(name: str) -> str:
    """The repository on the Hub of a model's short name; a name with an owner is one already.

    Raises:
        UsageError: no such short name. EnvironmentMissing: faster-whisper, which knows them, is not installed.
    """
    if "/" in name:
        return name
    try:
        from faster_whisper.utils import _MODELS
    except ImportError as e:
        raise missing_extra("faster-whisper", "asr") from e
    if name not in _MODELS:
        raise UsageError(
            f"there is no Whisper model {name!r}", f"give a folder, or one of {', '.join(sorted(_MODELS))}"
        )
    return str(_MODELS[name])


def _loader(asr: str) -> Callable[..., Recogniser]:
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == asr:
            loaded: Callable[..., Recogniser] = point.load()
            return loaded
    folder = Path(asr)
    if list(folder.glob("*.onnx")):
        from mmx.runtime.speech.onnx_asr import OnnxAsrRecogniser

        return partial(OnnxAsrRecogniser, folder)
    from mmx.runtime.speech.whisper import WhisperRecogniser

    return partial(WhisperRecogniser, folder)


def _in_cache(repository: str) -> Path | None:
    """The newest snapshot of a repository in the Hub's cache, if its model is there whole."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", cache_dir=_hub_cache())
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder and ((folder / "model.bin").exists() or list(folder.glob("*.onnx"))) else None


def _hub_cache() -> Path:
    """Where the Hub's client keeps models, by its own variables."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    try:
        return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    except RuntimeError:  # a user without a home
        return Path("/nonexistent")
