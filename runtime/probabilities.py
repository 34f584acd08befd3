"""Fused logits -> calibrated probabilities, and whether they are high enough to give labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from mmx.runtime.errors import UsageError
from mmx.runtime.from_json import Name, OneOf, Within

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Share = Annotated[float, Within(0, 1)]
Count = Annotated[int, Within(0, 2**31 - 1)]

METHODS = ("platt", "temperature", "identity")


@dataclass(frozen=True)
class LabelFit:
    """Of one label: calibrated probability = sigmoid(scale * logit + shift); the scale is above 0, so ranks stay.

    ``method``: platt (both fitted), temperature (the scale alone: few samples), identity (nothing to fit on).
    """

    scale: Annotated[float, Within(1e-4, 1e4)] = 1.0
    shift: Annotated[float, Within(-1e4, 1e4)] = 0.0
    method: Annotated[str, OneOf(METHODS)] = "identity"


@dataclass(frozen=True)
class ErrorLimit:
    """``confidence``: from which on at most ``error`` of the answers are wrong; ``coverage``: the share so answered."""

    error: Share
    confidence: Share
    coverage: Share


@dataclass(frozen=True)
class Reliability:
    """Means over the labels: expected calibration error (equal-mass bins) and Brier score."""

    calibration_error: Share
    brier: Share


@dataclass(frozen=True)
class SubsetFit:
    """The calibration of one set of modalities.

    Attributes:
        samples: that it was fitted on. labels: by label. limits: by rising error.
        before, after: measured on samples that the fit did not see (cross-fitting).
    """

    samples: Count
    labels: dict[Name, LabelFit]
    before: Reliability
    after: Reliability
    limits: tuple[ErrorLimit, ...] = ()

    def apply(self, logits: Floats) -> Floats:
        """Scale and shift logits [..., labels]."""
        import numpy as np  # here: mmx inspect reads the rest without it

        fits = self.labels.values()
        calibrated: Floats = np.array([fit.scale for fit in fits]) * logits + np.array([fit.shift for fit in fits])
        return calibrated


Fits = Mapping[str, SubsetFit]
"""By ``subset_name``."""


def subset_name(modalities: Collection[str], order: Sequence[str]) -> str:
    """The name of a set of modalities, in the system's order: ``text+audio``."""
    return "+".join(modality for modality in order if modality in modalities)


@dataclass(frozen=True)
class Certainty:
    """What an answer must reach for its labels to be given; the confidence is that of the most probable label.

    Attributes:
        min_confidence: its least probability.
        max_error: the share of given answers that may be wrong, as validation data had it (needs calibration).

    Raises:
        UsageError: a value is not within 0 to 1.
    """

    min_confidence: float | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("min_confidence", self.min_confidence), ("max_error", self.max_error)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} is {value}; it must be within 0 to 1")

    def doubt(self, confidence: float, fit: SubsetFit | None) -> str | None:
        """Why the labels are not given; None where they are. ``fit``: of the modalities that took part."""
        if self.min_confidence is not None and confidence < self.min_confidence:
            return f"the most probable label has {confidence:.1%}, under the {self.min_confidence:.1%} asked for"
        if self.max_error is None:
            return None
        asked = f"an error of at most {self.max_error:.1%}"
        if fit is None:
            return f"no confidence is known for {asked} with these modalities alone"
        met = [limit for limit in fit.limits if limit.error <= self.max_error]
        if not met:
            return f"no confidence gave {asked} on the validation data with these modalities"
        if confidence < met[-1].confidence:
            return f"the most probable label has {confidence:.1%}; {asked} takes {met[-1].confidence:.1%}"
        return None
