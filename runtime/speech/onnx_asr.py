"""Parakeet, Canary and other models through onnx-asr, which needs nothing but ONNX Runtime."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError, missing_extra
from mmx.runtime.speech.recogniser import Language, Word

LAST_TOKEN_S = 0.2
"""How long the last token of a window is taken to last: these models say when a token starts, not when it ends."""


class OnnxAsrRecogniser:
    """A model in a plain folder in onnx-asr's layout: ``config.json`` with ``model_type``, graphs, ``vocab.txt``.

    None of these models says which language it hears, so that one is only used where the language is known.

    Args:
        folder: the model. device: cpu | cuda. threads: of ONNX Runtime.

    Raises:
        EnvironmentMissing: onnx-asr is not installed. BadDataError: the folder is no such model.
    """

    window_s = 24.0
    detects_language = False

    def __init__(self, folder: Path, *, device: str = "cpu", threads: int = 1) -> None:
        try:
            import onnx_asr
        except ImportError as e:
            raise missing_extra("onnx-asr", "asr") from e
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"]
        try:
            kind = json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
            model = onnx_asr.load_model(kind, folder, sess_options=options, providers=providers)
        except Exception as e:  # whatever its loaders and ONNX Runtime make of a damaged file
            raise BadDataError(
                f"{folder} is no onnx-asr model: {type(e).__name__}: {e}".splitlines()[0], "mmx asr pull fetches one"
            ) from e
        self._model = model.with_timestamps()
        self.name = f"onnx-asr:{kind}"

    def detect_language(self, sound: NDArray[np.float32]) -> Language:
        """Never called: see ``detects_language``."""
        raise NotImplementedError

    def recognise(self, sound: NDArray[np.float32], language: str) -> list[Word]:
        """See ``Recogniser``."""
        found = self._model.recognize(sound, sample_rate=16000, language=language)
        tokens, starts = found.tokens or [], found.timestamps or []
        probabilities = [math.exp(min(value, 0.0)) for value in found.logprobs or [0.0] * len(tokens)]
        ends = [*starts[1:], (starts[-1] if starts else 0.0) + LAST_TOKEN_S]
        words: list[Word] = []
        for token, start, end, probability in zip(tokens, starts, ends, probabilities, strict=True):
            text = token.strip()
            if words and not token.startswith(" "):
                last = words.pop()
                words.append(Word(last.start, end, last.text + text, min(last.probability, probability)))
            elif text:
                words.append(Word(start, end, text, probability))
        return words

    def close(self) -> None:
        """See ``Recogniser``: ONNX Runtime gives the memory back when the model is dropped."""
        del self._model
