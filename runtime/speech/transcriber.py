"""Sound as it is decoded -> words as they are recognised. Memory stays bounded, however long the file is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.speech.recogniser import SAMPLE_RATE, Language, Recogniser, Word
from mmx.runtime.speech.voice import speech

Sound = NDArray[np.float32]
ROOM_S = 0.3
"""Sound around speech that a window keeps. Longer silences cost time and tempt a recogniser to invent words."""

SNAP_S = 0.6
"""Recognisers let words reach into pauses: the first and the last word near a pause begin and end with the voice."""


@dataclass(frozen=True)
class _Stretch:
    """Speech that waits for its window.

    ``sound`` starts at sample ``start`` of the file; the voice itself is heard in its samples ``first`` to ``last``.
    """

    start: int
    sound: Sound
    first: int
    last: int

    def timed(self, words: list[Word]) -> Iterator[Word]:
        """Words with times in samples of ``sound`` -> with times in seconds of the file, none outside the voice."""
        for number, word in enumerate(words):
            start, end = (min(max(time, self.first), self.last) for time in (word.start, word.end))
            if number == 0 and start - self.first < SNAP_S * SAMPLE_RATE:
                start = self.first
            if number == len(words) - 1 and self.last - end < SNAP_S * SAMPLE_RATE:
                end = self.last
            yield replace(word, start=(self.start + start) / SAMPLE_RATE, end=(self.start + end) / SAMPLE_RATE)


class Transcriber:
    """One file's sound, recognised in windows that are as full of speech as the recogniser likes.

    Args:
        recogniser: see ``Recogniser``; it may serve several files in turns.
        language: of the speech; None: detected in the first speech that is heard.
        accepts: whether words of a language are wanted; of others none are recognised.
        find_speech: see ``voice.speech``.

    Attributes:
        language: what is spoken, as soon as it is known; None if nobody says it, and then no words are recognised.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        language: str | None = None,
        accepts: Callable[[str], bool] = lambda code: True,
        find_speech: Callable[[Sound], list[tuple[int, int]]] = speech,
    ) -> None:
        self._recogniser = recogniser
        self.language = None if language is None else Language(language, 1.0)
        self._accepts = accepts
        self._find_speech = find_speech

    def words(self, sound: Iterable[tuple[int, Sound]]) -> Iterator[Word]:
        """The words of a sound that comes in parts, in order, a window at a time.

        Speech in a language that is not known or not wanted is a word without text.

        Args:
            sound: parts in order, each with the number of its first sample; float32 [samples] at 16 kHz, -1..1.
        """
        waiting: list[_Stretch] = []
        length = 0
        for stretch in self._stretches(sound):
            if waiting and length + len(stretch.sound) > self._window:
                yield from self._recognise(waiting)
                waiting, length = [], 0
            waiting.append(stretch)
            length += len(stretch.sound)
        if waiting:
            yield from self._recognise(waiting)

    @property
    def _window(self) -> int:
        return int(self._recogniser.window_s * SAMPLE_RATE)

    def _stretches(self, sound: Iterable[tuple[int, Sound]]) -> Iterator[_Stretch]:
        """The stretches of speech, none much longer than a window. What ends a buffer may go on in the next."""
        parts: list[Sound] = []
        start = end = 0
        for index, part in sound:
            if index != end:  # a hole in the track
                yield from self._found(parts, start)
                parts, start = [], index
            parts.append(part)
            end = index + len(part)
            if end - start >= self._window:
                found = self._found(parts, start)
                rest = end
                if found and found[-1].start > start and found[-1].start + len(found[-1].sound) >= end:
                    rest = found.pop().start  # it may go on
                yield from found
                parts, start = [np.concatenate(parts)[rest - start :]], rest
        yield from self._found(parts, start)

    def _found(self, parts: list[Sound], start: int) -> list[_Stretch]:
        """The stretches in a buffer, each with what is around it, but nothing of its neighbours'."""
        buffer = np.concatenate(parts) if parts else np.empty(0, np.float32)
        found = self._find_speech(buffer)
        stretches = []
        room = int(ROOM_S * SAMPLE_RATE)
        edges = [0, *((a[1] + b[0]) // 2 for a, b in pairwise(found)), len(buffer)]
        for (first, last), left, right in zip(found, edges, edges[1:], strict=False):
            left, right = max(first - room, left), min(last + room, right)
            stretches.append(_Stretch(start + left, buffer[left:right].copy(), first - left, last - left))
        return stretches

    def _recognise(self, stretches: list[_Stretch]) -> Iterator[Word]:
        """Recognise stretches in one window; times are the file's."""
        window = np.concatenate([stretch.sound for stretch in stretches])
        if self.language is None and self._recogniser.detects_language:
            self.language = self._recogniser.detect_language(window)
        if self.language is None or not self._accepts(self.language.code):
            for stretch in stretches:
                yield from stretch.timed([Word(0.0, float(len(stretch.sound)), "", 0.0)])
            return
        starts = np.cumsum([0, *(len(stretch.sound) for stretch in stretches)])
        spoken: dict[int, list[Word]] = {}
        for word in self._recogniser.recognise(window, self.language.code):
            start, end = word.start * SAMPLE_RATE, word.end * SAMPLE_RATE
            home = int(np.argmax(np.minimum(end, starts[1:]) - np.maximum(start, starts[:-1])))
            spoken.setdefault(home, []).append(replace(word, start=start - starts[home], end=end - starts[home]))
        for home in sorted(spoken):
            yield from stretches[home].timed(spoken[home])
