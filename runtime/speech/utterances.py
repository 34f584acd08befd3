"""Words -> utterances, which become the segments of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmx.runtime.speech.recogniser import Word
from mmx.runtime.types import Span

PAUSE_S = 0.8
"""A silence this long ends an utterance."""

SENTENCE_END = (".", "?", "!", "。", "？", "！")
SHORTEST_SENTENCE_S = 2.0
"""A sentence that ends sooner stays with the next one: so little of it is little to go by."""

LONGEST_S = 15.0
"""An utterance that would be longer ends at its longest pause."""

MARGIN_S = 0.15
"""Before the first and after the last word: their times are those of loud parts."""


def utterances(words: Iterable[Word], longest_s: float = LONGEST_S) -> Iterator[Span]:
    """Cut words, in the order of their times, where people pause or a sentence ends.

    Yields:
        spans that do not overlap, each with its words as text; None where no word was recognised.
    """
    end = 0.0
    for group in _groups(words, longest_s):
        start = max(group[0].start - MARGIN_S, end)
        end = max(group[-1].end + MARGIN_S, start + MARGIN_S)
        yield Span(start, end, " ".join(word.text for word in group if word.text) or None)


def _groups(words: Iterable[Word], longest_s: float) -> Iterator[list[Word]]:
    group: list[Word] = []
    for word in words:
        if group and _ends(group, word):
            yield group
            group = []
        group.append(word)
        while len(group) > 1 and group[-1].end - group[0].start > longest_s:
            cut = max(range(1, len(group)), key=lambda i: group[i].start - group[i - 1].end)
            yield group[:cut]
            group = group[cut:]
    if group:
        yield group


def _ends(group: list[Word], following: Word) -> bool:
    pause = following.start - group[-1].end
    sentence = group[-1].text.endswith(SENTENCE_END) and group[-1].end - group[0].start >= SHORTEST_SENTENCE_S
    return pause >= PAUSE_S or sentence
