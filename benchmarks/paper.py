"""The paper's figures, as it printed them (tables 1 to 5): seconds for the whole test set on an RTX 4090, and scores.

They stand beside what is measured here and never enter a computation of this machine's figures.
"""

from __future__ import annotations

from dataclasses import dataclass

DATASETS = ("iemocap", "mosei")
SAMPLES = {"iemocap": 1481, "mosei": 4188}
ACCURACY_NAME = {"iemocap": "Acc", "mosei": "WAcc"}

# Systems by their names in models.registry. V is the visual trunk, A the audio one, T the text one.
TITLES = {
    "lf-lstm": "LF-LSTM",
    "lf-trans": "LF-TRANS",
    "mult": "MulT",
    "fe2e": "FE2E",
    "v2em": "V2EM",
    "v2em-visual+focal": "V+A(Ours)+T",
    "rfam+nest": "V(Ours)+A+T",
    "ours": "Ours",
}
COMPARISON = ("lf-lstm", "lf-trans", "mult", "fe2e", "v2em", "ours")  # rows of tables 1 and 2
ABLATION = ("v2em", "v2em-visual+focal", "rfam+nest", "ours")  # rows of tables 3 and 4


@dataclass(frozen=True)
class Published:
    """What the paper reports of one system on one data set: percent, percent, seconds (None: it gives none).

    ``accuracy`` is plain for IEMOCAP and weighted for MOSEI: (TP * N/P + TN) / (2N).
    """

    accuracy: float
    f1: float
    seconds: float | None = None


PUBLISHED: dict[str, dict[str, Published]] = {
    "iemocap": {
        "lf-lstm": Published(73.25, 47.55),
        "lf-trans": Published(76.87, 49.46),
        "mult": Published(77.64, 56.87),
        "fe2e": Published(81.49, 55.76, 146.62),
        "v2em": Published(82.15, 55.73, 70.45),
        "v2em-visual+focal": Published(83.13, 57.38, 65.72),
        "rfam+nest": Published(83.47, 56.23, 67.09),
        "ours": Published(85.28, 58.15, 66.35),
    },
    "mosei": {
        "lf-lstm": Published(66.84, 44.62),
        "lf-trans": Published(67.99, 45.35),
        "mult": Published(68.47, 45.28),
        "fe2e": Published(69.16, 47.46, 142.13),
        "v2em": Published(69.92, 44.83, 111.69),
        "v2em-visual+focal": Published(72.41, 46.06, 92.54),
        "rfam+nest": Published(70.87, 44.62, 87.47),
        "ours": Published(74.02, 46.37, 69.99),
    },
}

# Table 5, in millions.
PARAMETERS: dict[str, dict[str, float]] = {
    "v2em": {"visual": 1.81, "audio": 67.25, "text": 11.68},
    "ours": {"visual": 0.73, "audio": 49.89, "text": 11.68},
}


def published(dataset: str, system: str) -> Published | None:
    """What the paper reports of a system; None on a data set of one's own."""
    return PUBLISHED.get(dataset, {}).get(system)
