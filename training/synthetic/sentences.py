"""Sentences whose words lean towards an emotion without giving it away: vocabularies overlap, most words say nothing.

A sentence holds ``CUES`` words drawn independently from the emotion's distribution, in a frame of words that do not
depend on it. So the chance of any sentence under any emotion is known, and with it the best possible accuracy.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import factorial

import numpy as np
from numpy.typing import NDArray

CUES = 3

# Said mostly with one emotion.
_OWN: dict[str, tuple[str, ...]] = {
    "anger": ("outrageous", "unfair", "furious", "blame"),
    "disgust": ("rotten", "filthy", "sickening", "greasy"),
    "fear": ("danger", "trembling", "threat", "scared"),
    "happy": ("lovely", "delighted", "wonderful", "cheerful"),
    "sad": ("lonely", "goodbye", "mourning", "hopeless"),
    "surprise": ("suddenly", "unexpected", "incredible", "astonished"),
}
# Said with two: each emotion shares words with the one before and the one after it in this round.
_SHARED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("anger", "disgust", ("horrible", "unbearable", "disgrace")),
    ("disgust", "sad", ("awful", "miserable", "ruined")),
    ("sad", "fear", ("helpless", "worried", "alone")),
    ("fear", "surprise", ("shocking", "startled", "gasped")),
    ("surprise", "happy", ("amazing", "wow", "really")),
    ("happy", "anger", ("loud", "finally", "absolutely")),
)
# Said with any.
_COMMON = ("yesterday", "again", "maybe", "today", "people", "always", "somehow", "everything")

_OWN_SHARE, _PAIR_SHARE, _OTHERS_SHARE = 0.3, 0.34, 0.12  # what is left is common words

_OPENERS = ("well", "look", "so", "and", "oh", "yes", "no", "hm")
_THINGS = (
    "the kitchen",
    "the letter",
    "that evening",
    "the doctor",
    "my brother",
    "the concert",
    "our house",
    "the team",
)

EMOTIONS = tuple(_OWN)
WORDS = tuple(
    [word for words in _OWN.values() for word in words] + [w for *_, words in _SHARED for w in words] + list(_COMMON)
)


def cue_chances() -> NDArray[np.float64]:
    """The chance of each cue word under each emotion, [emotions, words]."""
    chances = np.zeros((len(EMOTIONS), len(WORDS)))
    place = {word: i for i, word in enumerate(WORDS)}
    others = len(EMOTIONS) - 1
    for row, emotion in enumerate(EMOTIONS):
        for owner, words in _OWN.items():
            share = _OWN_SHARE if owner == emotion else _OTHERS_SHARE / others
            chances[row, [place[word] for word in words]] += share / len(words)
        for first, second, words in _SHARED:
            if emotion in (first, second):
                chances[row, [place[word] for word in words]] += _PAIR_SHARE / 2 / len(words)
        left = 1 - _OWN_SHARE - _PAIR_SHARE - _OTHERS_SHARE
        chances[row, [place[word] for word in _COMMON]] += left / len(_COMMON)
    return chances


def compose(emotion: str, random: np.random.Generator) -> str:
    """A sentence said with ``emotion``."""
    cues = [str(word) for word in random.choice(WORDS, CUES, p=cue_chances()[EMOTIONS.index(emotion)])]
    opener, thing = str(random.choice(_OPENERS)), str(random.choice(_THINGS))
    return f"{opener}, {cues[0]}, {thing}, {cues[1]}, {cues[2]}.".capitalize()


def bags() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every bag of cue words there is: its chance under each emotion [bags, emotions], and overall [bags].

    The order of the cues says nothing, so bags are all that an ideal reader needs.
    """
    chances = cue_chances()
    rows = []
    for bag in combinations_with_replacement(range(len(WORDS)), CUES):
        orders = factorial(CUES)
        for word in set(bag):
            orders //= factorial(bag.count(word))
        rows.append(orders * np.prod(chances[:, bag], axis=1))
    under = np.array(rows)
    return under, under.mean(axis=1)
