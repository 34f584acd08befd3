"""What is heard in one file while it is read: its words, its utterances, and what is known of its language."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.prediction import Word
from mmx.runtime.speech.recogniser import Language, Recogniser
from mmx.runtime.speech.transcriber import Transcriber
from mmx.runtime.speech.utterances import utterances
from mmx.runtime.types import Span

log = logging.getLogger(__name__)

SILENCE_S = 10.0
"""A stretch this long without a word is a segment of its own: faces go on when nobody speaks."""

LONGEST_SILENCE_S = 30.0
FORGOTTEN_S = 600.0
DOUBTFUL = 0.5
"""Words with a lower mean probability are flagged."""


class Heard:
    """The speech of one file. A recogniser that fails costs the words, never the file.

    Args:
        recogniser: see ``Recogniser``. language: what is spoken, if it is known (ISO 639-1).
        accepts: whether the bundle's text model knows a language.

    Attributes:
        failure: why no more words are recognised; None while all is well.
    """

    def __init__(self, recogniser: Recogniser, language: str | None, accepts: Callable[[str], bool]) -> None:
        self.recogniser = recogniser.name
        self.failure: str | None = None
        self._accepts = accepts
        self._transcriber = Transcriber(recogniser, language, accepts)
        self._words: Iterator[Word] = iter(())
        self._recent: list[Word] = []
        self._known = -math.inf

    @property
    def language(self) -> Language | None:
        """What is spoken, as soon as it is known."""
        return self._transcriber.language

    def listen(self, sound: Iterable[tuple[int, NDArray[np.float32]]]) -> None:
        """Take the file's sound: parts with the number of their first sample, float32 at 16 kHz. Reads nothing yet."""
        self._words = self._transcriber.words(sound)

    def spans(self, length: float) -> Iterator[Span]:
        """The file's segments: utterances, and long stretches without any. ``length``: of the file in seconds, or 0."""
        end, spoken = 0.0, False
        for span in utterances(self._all()):
            if span.start - end >= SILENCE_S:
                yield from _parts(end, span.start)
            yield span
            end, spoken = span.end, True
        if length > end and (length - end >= SILENCE_S or not spoken):
            yield from _parts(end, length)
        elif not spoken:  # its packets have no times; a segment is cut at the end of the media
            yield Span(0.0, LONGEST_SILENCE_S)

    def words_in(self, span: Span) -> tuple[Word, ...]:
        """The words whose middle lies in a span; spans are asked for in the order they end."""
        while self._known < span.end and (word := self._next()) is not None:
            self._recent.append(word)
        self._recent = [word for word in self._recent if word.end > span.start - FORGOTTEN_S]
        return tuple(word for word in self._recent if span.start <= (word.start + word.end) / 2 < span.end)

    def absence(self, words: tuple[Word, ...]) -> tuple[str, tuple[str, ...]]:
        """Why a segment has no text, in words for the answer and as flags."""
        language = self.language
        if self.failure:
            return f"speech recognition failed: {self.failure}", ("recognition_failed",)
        if not words:
            return "no speech in this segment", ()
        if language is None:
            return f"{self.recogniser} cannot detect the language: --language en, if that is spoken", (
                "language_unknown",
            )
        if not self._accepts(language.code):
            return f"the speech is {language.code}, which the text model does not know", ("language_mismatch",)
        return "no words in this segment", ()

    def _all(self) -> Iterator[Word]:
        """Every word; those that are handed out here stay known to ``words_in``."""
        while (word := self._next()) is not None:
            self._recent.append(word)
            yield word

    def _next(self) -> Word | None:
        try:
            word = next(self._words, None)
        except Exception as e:  # a recogniser is somebody else's code; its failure costs the text and nothing else
            log.warning("speech recognition failed", exc_info=e)
            self.failure = str(e).partition("\n")[0] or type(e).__name__
            self._words = iter(())
            word = None
        self._known = math.inf if word is None else word.start
        return word


def is_doubtful(words: tuple[Word, ...]) -> bool:
    """Whether the recogniser is not sure of these words."""
    return sum(word.probability for word in words) < DOUBTFUL * len(words)


def _parts(start: float, end: float) -> Iterator[Span]:
    """A stretch in equal parts, none too long."""
    count = max(1, math.ceil((end - start) / LONGEST_SILENCE_S))
    for number in range(count):
        yield Span(start + (end - start) * number / count, start + (end - start) * (number + 1) / count)
