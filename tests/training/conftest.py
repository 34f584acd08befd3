"""A small synthetic data set, and samples of it without media: what training needs and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mmx.runtime.types import Sample
from mmx.training.synthetic.writer import write_synthetic


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order, however busy the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty synthetic utterances and six clips on disk."""
    root = tmp_path_factory.mktemp("synthetic") / "data"
    write_synthetic(root, 30, seed=3, clips=1)
    return root


class InMemory:
    """What ``Utterances`` offers, of random samples whose words say the emotion."""

    def __init__(self, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        emotions = random.integers(0, 6, count)
        self.targets = np.eye(6, dtype=np.int64)[emotions]
        self._samples = [
            Sample(
                token_ids=np.array([2, 20 + emotion, *random.integers(30, 40, 3), 3]),
                faces=random.uniform(0, 255, (1 + i % 2, 3, 48, 48)).astype(np.float32),
                pieces=random.exponential(1.0, (1 + i % 3, 128, 32)).astype(np.float32),
            )
            for i, emotion in enumerate(emotions)
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def digest(self) -> str:
        return f"{len(self)}"


@pytest.fixture(scope="session")
def in_memory() -> type[InMemory]:
    """``InMemory``."""
    return InMemory
