"""One recording's sound: the WAV files of every utterance, sample for sample, in one pass."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mmx.datasets.prepare.plan import Utterance
from mmx.runtime.errors import BadDataError
from mmx.runtime.media.container import check_rate
from mmx.runtime.media.decode import Track

RATE = 16000  # Hz
MOST_OPEN = 100  # utterances that overlap at one moment; more is no transcript
CHANNELS: dict[str, dict[str, tuple[int, ...]]] = {
    "iemocap": {"audio": (0, 1), "audio_L": (0,), "audio_R": (1,)},
    "mosei": {"audio": (0,)},
}
"""File names without .wav, and the channels of the source in each."""


class PcmTrack(Track):
    """A file's sound as 16-bit samples at 16 kHz, all channels: iterate for int16 [n, channels].

    Sound that is stored so comes out as it is; other sound is converted.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "audio", 1)

    def __iter__(self) -> Iterator[NDArray[np.int16]]:
        resampler: av.AudioResampler | None = None
        channels = 0
        decoded = (frame for packet in self._packets() for frame in self._decoded(packet))
        for frame in decoded:
            if not frame.samples:
                continue
            check_rate(frame.sample_rate, self.name)
            if resampler is None and not channels:
                channels = frame.layout.nb_channels
                if frame.format.name != "s16" or frame.sample_rate != RATE:
                    resampler = av.AudioResampler("s16", frame.layout, RATE)
            for part in resampler.resample(frame) if resampler else [frame]:
                yield _samples(part, channels)
        for part in resampler.resample(None) if resampler else []:
            yield _samples(part, channels)


def _samples(frame: av.AudioFrame, channels: int) -> NDArray[np.int16]:
    return np.asarray(frame.to_ndarray().reshape(-1, channels), np.int16)


def write_sound(
    audio: Path, utterances: tuple[Utterance, ...], folder: Path, dataset: str, alive: Callable[[], object]
) -> list[int]:
    """Write every utterance's sound to ``folder/<utterance>``: samples int(rate * start) to int(rate * end).

    Args:
        alive: called with each piece of sound.

    Returns:
        How many samples each utterance has.

    Raises:
        BadDataError: the sound cannot be read, or more than a hundred utterances overlap.
    """
    spans = sorted(
        (int(RATE * max(0.0, said.start)), int(RATE * said.end), place) for place, said in enumerate(utterances)
    )
    counts = [0] * len(utterances)
    with PcmTrack(audio) as track, ExitStack() as closing:
        opened: dict[int, tuple[int, int, list[tuple[wave.Wave_write, tuple[int, ...]]]]] = {}
        position = following = 0
        for samples in track:
            alive()
            end = position + len(samples)
            while following < len(spans) and spans[following][0] < end:
                first, last, place = spans[following]
                following += 1
                if first < last:
                    opened[place] = (first, last, _open(folder / utterances[place].name, dataset, closing))
            if len(opened) > MOST_OPEN:
                raise BadDataError(f"more than {MOST_OPEN} utterances of {audio.name} overlap")
            for place, (first, last, files) in list(opened.items()):
                part = samples[max(0, first - position) : last - position]
                for file, channels in files:
                    columns = [min(channel, samples.shape[1] - 1) for channel in channels]
                    file.writeframes(part[:, columns].astype("<i2").tobytes())
                counts[place] += len(part)
                if last <= end:
                    for file, _ in files:
                        file.close()
                    del opened[place]
            position = end
            if not opened and following == len(spans):
                break
    return counts


def _open(place: Path, dataset: str, closing: ExitStack) -> list[tuple[wave.Wave_write, tuple[int, ...]]]:
    """The WAV files of one utterance, ready to be written."""
    place.mkdir(parents=True, exist_ok=True)
    files = []
    for name, channels in CHANNELS[dataset].items():
        file = closing.enter_context(wave.Wave_write(str(place / f"{name}.wav")))
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(RATE)
        files.append((file, channels))
    return files
