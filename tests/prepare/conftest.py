"""The made-up releases, written once, and what ``mmx prepare`` makes of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that the tests of this folder can import ``releases``

import releases

from mmx.datasets.prepare.account import Account
from mmx.datasets.prepare.run import Options, prepare


@pytest.fixture(scope="session")
def iemocap(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, releases.Said]]:
    """A release of IEMOCAP and its utterances."""
    folder = tmp_path_factory.mktemp("release") / "IEMOCAP_full_release"
    return folder, releases.write_iemocap(folder)


@pytest.fixture(scope="session")
def mosei(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, releases.Clip]]:
    """A release of MOSEI and its clips."""
    folder = tmp_path_factory.mktemp("release") / "MOSEI_Raw"
    return folder, releases.write_mosei(folder)


Prepared = Callable[[str, str], tuple[Path, Account]]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, iemocap, mosei) -> Prepared:
    """(dataset, compat) -> the folder that was made of its release, and the account."""
    made: dict[tuple[str, str], tuple[Path, Account]] = {}

    def of(dataset: str, compat: str) -> tuple[Path, Account]:
        if (dataset, compat) not in made:
            out = tmp_path_factory.mktemp("prepared") / "data"
            release = {"iemocap": iemocap, "mosei": mosei}[dataset][0]
            made[dataset, compat] = out, prepare(release, out, Options(dataset, compat, workers=2))
        return made[dataset, compat]

    return of
