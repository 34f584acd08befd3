"""What the clips of ``--scope pipeline`` say, and a small SentencePiece model that reads it, for bundles with seeded
weights.

The published vocabulary can't be shipped; a seeded system does not care which ids it gets.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmx.datasets.tokenizer import train_tokenizer

WORDS = tuple(
    """
    i you we they it that this what who how why where when a the my your no yes not and but so or if because then
    now never always really just only even still again out up down over with without about for from to of in on at
    is are was were be been have had do did don't can can't could would should will won't think thought know knew
    want wanted need see saw say said tell told come came go going gone make made take took give gave feel felt
    leave left stay love hate hope fear happy sorry tired angry glad afraid wonderful terrible old new long little
    big good bad better worse same other day night year time home work money car door letter friend mother father
    brother sister everybody
    """.split()  # noqa: SIM905
)
SENTENCES = 400
PIECES = 400


def speech(words: int) -> str:
    """A text of so many words; the same number gives the same text."""
    chosen = np.random.default_rng(words).choice(WORDS, words)
    return " ".join(f"{word}{'.' if i % 9 == 8 else ''}" for i, word in enumerate(chosen))


def train_vocabulary(folder: Path) -> Path:
    """Train the model on such texts and write ``folder/spiece.model``, with ALBERT's special ids; the folder."""
    return train_tokenizer([speech(5 + n % 40) for n in range(SENTENCES)], folder, PIECES)
