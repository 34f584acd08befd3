"""What the training data look and sound like, and from which distance on an utterance is unlike them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from mmx.datasets.samples import Utterances
from mmx.export.variant_writer import made_now, new_variant
from mmx.runtime.bundle import Bundle
from mmx.runtime.domain import SIZES, Gaussian, describe
from mmx.runtime.records import DomainRecord

Floats = NDArray[np.float64]

FEWEST = 50  # utterances with faces, or with sound, in either split
KEPT = 0.995  # of fresh utterances, within each limit; there are three

Tick = Callable[[str, int, int], None]


def fit_domain(train: Utterances, valid: Utterances, tick: Tick | None = None) -> dict[str, Gaussian]:
    """A Gaussian of each kind of description in the training split, and its limit from the validation split.

    Kinds that fewer than ``FEWEST`` utterances of either have are left out.
    """
    seen = {name: _descriptions(data, tick, name) for name, data in (("train", train), ("valid", valid))}
    return {
        kind: fit_gaussian(seen["train"][kind], seen["valid"][kind])
        for kind in SIZES
        if all(len(each.get(kind, ())) >= FEWEST for each in seen.values())
    }


def add_domain(bundle: Bundle, train: Utterances, valid: Utterances, found: dict[str, Gaussian]) -> Bundle:
    """Give the bundle what its training data look and sound like, in place of an older one; returns it with that.

    Raises:
        UsageError: the bundle cannot be written. BundleReplaced: it was exported again meanwhile.
    """
    record = DomainRecord(
        precision="fp32",
        source=bundle.graph_sha256,
        files={},
        kinds=found,
        recipe={"train": train.digest(), "valid": valid.digest(), "kept": KEPT},
        **made_now(),
    )
    with new_variant(bundle) as folder:
        folder.publish("domain", record)
    return bundle.refreshed()


def fit_gaussian(train: Sequence[Floats], valid: Iterable[Floats]) -> Gaussian:
    """The Gaussian of some descriptions (Ledoit-Wolf's covariance), and the limit that others keep.

    The limit is the least that a share ``KEPT`` of ``valid``, one unseen utterance added above all, does not pass; the
    largest, where they are few.
    """
    seen = np.stack(list(train))
    fitted = LedoitWolf().fit(seen)
    values, vectors = np.linalg.eigh(fitted.covariance_)
    whitening = vectors.T / np.sqrt(np.maximum(values, 1e-12))[:, None]
    mean, rows = tuple(fitted.location_.tolist()), tuple(tuple(row) for row in whitening.tolist())
    open_ended = Gaussian(mean, rows, 1e9, len(seen))
    distances = sorted(open_ended.distance(each) for each in valid)
    place = min(math.ceil((len(distances) + 1) * KEPT), len(distances)) - 1
    return Gaussian(mean, rows, distances[place], len(seen))


def _descriptions(data: Utterances, tick: Tick | None, name: str) -> dict[str, list[Floats]]:
    found: dict[str, list[Floats]] = {}
    for i in range(len(data)):
        for kind, description in describe(data[i]).items():
            found.setdefault(kind, []).append(description)
        if tick:
            tick(f"describing the {name} split", i + 1, len(data))
    return found
