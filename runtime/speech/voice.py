"""Voice activity: where in a sound somebody speaks (Silero VAD, which faster-whisper carries)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import missing_extra
from mmx.runtime.speech.recogniser import SAMPLE_RATE

SHORTEST_SILENCE_MS = 300


def speech(sound: NDArray[np.float32]) -> list[tuple[int, int]]:
    """The stretches of ``sound`` (float32 [samples], 16 kHz) with a voice: first and last sample, in order.

    Raises:
        EnvironmentMissing: faster-whisper is not installed.
    """
    try:
        from faster_whisper.vad import VadOptions, get_speech_timestamps
    except ImportError as e:
        raise missing_extra("faster-whisper", "asr") from e
    if len(sound) < SAMPLE_RATE // 10:
        return []
    options = VadOptions(min_silence_duration_ms=SHORTEST_SILENCE_MS, speech_pad_ms=0, min_speech_duration_ms=150)
    return [(part["start"], part["end"]) for part in get_speech_timestamps(sound, options)]
