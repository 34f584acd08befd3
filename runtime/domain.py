"""How far a segment's faces and sound are from the training data: a Mahalanobis distance of simple descriptions.

What is described are the network's inputs, not its features: a network maps what it has never seen to anything, often
to where its classes are. A Gaussian of the training utterances' descriptions is kept in the bundle (``mmx calibrate
--probabilities``), with the distance that fresh speakers hardly ever pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from mmx.runtime.from_json import Within

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmx.runtime.types import Sample

    Floats = NDArray[np.float64]

Value = Annotated[float, Within(-1e9, 1e9)]

GRID = 6  # of a face's brightness, a side
BANDS = 16  # of a sound's spectrum
FLOOR = 1e-8  # of mel power: what digital silence is taken for
SIZES = {"faces": GRID * GRID + 8, "spectrum": BANDS + 1, "variation": BANDS + 1}
"""Of each description. They are apart, so that a difference in one is not lost among the others."""


@dataclass(frozen=True)
class Gaussian:
    """Of one kind of description: mean [n], whitening [n][n], and the distance from which on one is out of domain.

    ``samples``: that it was fitted on.
    """

    mean: tuple[Value, ...]
    whitening: tuple[tuple[Value, ...], ...]
    limit: Annotated[float, Within(1e-6, 1e9)]
    samples: Annotated[int, Within(0, 2**31 - 1)]

    def distance(self, description: Floats) -> float:
        """Root mean square of the whitened difference: about 1 for a usual utterance."""
        import numpy as np  # here: records are read without it

        return float(np.sqrt(np.mean((np.array(self.whitening) @ (description - np.array(self.mean))) ** 2)))


Domain = Mapping[str, Gaussian]
"""By what is described, of ``SIZES``."""


def unlike(sample: Sample, domain: Domain) -> tuple[dict[str, float], str | None]:
    """How far a sample is from the training data, and why it is out of their domain (None: it is not).

    Distances by the names of quality numbers (``faces_distance``), 1 being the limit.
    """
    shares = {
        name: domain[name].distance(description) / domain[name].limit
        for name, description in describe(sample).items()
        if name in domain
    }
    beyond = {"faces are" if name == "faces" else "sound is": None for name, share in shares.items() if share > 1}
    why = f"the {' and the '.join(beyond)} unlike the training data" if beyond else None
    return {f"{name}_distance": round(share, 2) for name, share in shares.items()}, why


def describe(sample: Sample) -> dict[str, Floats]:
    """The descriptions of what a sample has (words have none).

    ``faces`` [44]: the brightness of a 6x6 grid, against the face's own mean and contrast; mean and deviation of red,
    green and blue; mean steps to the right and down. Means over the faces. ``spectrum`` [17]: the level of 16 bands
    against the whole, in dB, and its level. ``variation`` [17]: how far the level of each band and of the whole varies
    over time, as the logarithm of its deviation in dB.
    """
    found = {}
    if len(sample.faces):
        found["faces"] = _faces(sample.faces)
    if len(sample.pieces):
        found |= _sound(sample.pieces)
    return found


def _faces(faces: NDArray[np.float32]) -> Floats:
    import numpy as np

    pixels = faces.astype(np.float64) / 255
    grey = pixels.mean(axis=1)
    size = grey.shape[1] // GRID
    cells = grey.reshape(len(grey), GRID, size, GRID, size).mean(axis=(2, 4)).reshape(len(grey), -1)
    contrast = np.maximum(grey.std(axis=(1, 2)), 0.01)[:, None]
    cells = (cells - grey.mean(axis=(1, 2))[:, None]) / contrast
    colours = np.concatenate([pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3))], axis=1)
    steps = [np.log(np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2)) + 1e-3) for axis in (1, 2)]
    return np.concatenate([cells, colours, np.stack(steps, axis=1)], axis=1).mean(axis=0)


def _sound(pieces: NDArray[np.float32]) -> dict[str, Floats]:
    import numpy as np

    power = np.concatenate(list(pieces.astype(np.float64)), axis=1)
    heard = power.any(axis=0)  # the last piece is filled with zeros
    power = power[:, heard] if heard.any() else power
    bands = power.reshape(BANDS, -1, power.shape[1]).mean(axis=1)
    rows = np.concatenate([bands, bands.mean(axis=0, keepdims=True)])
    level = 10 * np.log10(rows.mean(axis=1) + FLOOR)
    variation = np.log((10 * np.log10(rows + FLOOR)).std(axis=1) + 0.1)
    return {"spectrum": np.concatenate([level[:-1] - level[-1], level[-1:]]), "variation": variation}
