"""``Network``: a bundle on a backend. Samples -> logits -> predictions; every use of a graph in mmx goes through it.

samples -> pack -> backend -> checked: there, of the right shape, finite -> by sample -> fused -> Prediction
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.backends import Backend, open_backend
from mmx.runtime.bundle import Bundle
from mmx.runtime.closing import Closing
from mmx.runtime.domain import unlike
from mmx.runtime.errors import BackendFailed, BadDataError, MmxError, UsageError, as_error
from mmx.runtime.fusion import fuse, fuse_batch
from mmx.runtime.notices import model_flags
from mmx.runtime.packing import INPUTS, inputs_for
from mmx.runtime.prediction import Prediction
from mmx.runtime.preprocess import Segment
from mmx.runtime.probabilities import Certainty
from mmx.runtime.types import Sample

Outputs = dict[str, NDArray[np.float32]]
"""The graph's outputs by name, float32: [samples, labels], or [labels] of one sample."""


class Network(Closing):
    """A bundle on a backend, which it closes. Thread-safe; as many calls run at once as the backend has streams.

    Attributes: ``bundle``, ``backend``.
    """

    def __init__(self, bundle: Bundle, backend: Backend, certainty: Certainty | None = None) -> None:
        self.bundle, self.backend = bundle, backend
        self._manifest = bundle.manifest
        self._fits = bundle.calibration
        self._certainty = certainty
        self._domain = bundle.domain
        self._model_flags = model_flags(bundle.manifest)
        if certainty is not None and certainty.max_error is not None and not self._fits:
            raise UsageError(
                f"{bundle.path} has no calibrated probabilities, so no confidence is known for an error",
                "mmx calibrate BUNDLE --probabilities --data DIR, or ask for a confidence (--min-confidence)",
            )

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        backend: str = "auto",
        precision: str = "fp32",
        *,
        certainty: Certainty | None = None,
        **options: Any,
    ) -> Network:
        """Open a bundle on a backend.

        Args:
            bundle: a bundle folder, or one that is open.
            backend, precision, options: see ``open_backend``.
            certainty: what a prediction must reach to be given labels.

        Raises:
            MmxError: what ``Bundle.open`` and ``open_backend`` raise; UsageError: ``certainty`` asks for a stated
                error of a bundle without calibrated probabilities.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        return cls(opened, open_backend(opened, backend, precision, **options), certainty)

    def pack(self, samples: Sequence[Sample]) -> dict[str, NDArray]:
        """The graph's inputs for these samples, in their order.

        Raises:
            UsageError: the samples do not fit the graph (see ``packing.inputs_for``).
        """
        return inputs_for(self._manifest, samples)

    def outputs(self, samples: Sequence[Sample]) -> Outputs:
        """Run the graph on samples: its outputs, float32 [samples, labels] by name, finite or not.

        Raises:
            UsageError: the samples do not fit the graph.
            BackendFailed: the backend failed while it ran, out of memory for instance; or an output is missing, or
                is not [samples, labels].
        """
        inputs = self.pack(samples)
        try:
            outputs = self.backend.run(inputs)
        except MmxError:
            raise
        except Exception as e:  # what a backend raises has no common base class
            raise self._failed(e, len(samples)) from e
        shape = (len(samples), len(self._manifest.labels))
        for name in self.backend.outputs:
            found = None if name not in outputs else outputs[name].shape
            if found != shape:
                raise BackendFailed(
                    f"{self._ran} gives {name} of shape {found and list(found)}, not {list(shape)}",
                    "run mmx export (and mmx build-engine) again",
                )
        return outputs

    def logits(self, samples: Sequence[Sample]) -> Outputs:
        """``outputs``, all of them finite.

        Raises:
            MmxError: see ``outputs``; BadDataError where a value is not a finite number.
        """
        outputs = self.outputs(samples)
        if unusable := self._not_finite(outputs):
            raise unusable
        return outputs

    def fused(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """The fused logits [samples, labels] over the modalities each sample has, finite or not. See ``outputs``."""
        outputs = self.outputs(samples)
        weights = self._manifest.fusion_weights
        return fuse_batch({name: outputs[f"logits_{name}"] for name in weights}, samples, weights)

    def each(self, samples: Sequence[Sample]) -> list[Outputs | MmxError]:
        """Each sample's outputs, [labels] by name, or its error. Raises nothing.

        If a batch fails, its samples run again alone, and so does a sample whose outputs are not finite: an error
        stays with its sample.
        """
        try:
            together = self.outputs(samples)
        except Exception as e:
            if len(samples) == 1:
                return [as_error(e)]
            return [self.each([sample])[0] for sample in samples]
        answers: list[Outputs | MmxError] = []
        for number, sample in enumerate(samples):
            row = {name: values[number] for name, values in together.items()}
            unusable = self._not_finite(row)
            if unusable and len(samples) > 1:
                answers += self.each([sample])
            else:
                answers.append(unusable or row)
        return answers

    def predict(self, segments: Sequence[Segment]) -> list[Prediction | MmxError]:
        """Each segment's prediction, or its error; see ``each``. A segment without any modality has a
        prediction too, which says so.
        """
        runnable = [segment for segment in segments if segment.sample.modalities]
        started = perf_counter()
        rows = self.each([segment.sample for segment in runnable]) if runnable else []
        each_ms = (perf_counter() - started) * 1000 / max(len(runnable), 1)
        row_of = dict(zip(map(id, runnable), rows, strict=True))
        answers: list[Prediction | MmxError] = []
        for segment in segments:
            row = row_of.get(id(segment))
            if not isinstance(row, MmxError):
                answers.append(self.prediction(segment, row, 0.0 if row is None else each_ms))
            else:
                answers.append(row)
        return answers

    def prediction(
        self, segment: Segment, outputs: Mapping[str, NDArray[np.float32]] | None, network_ms: float
    ) -> Prediction:
        """The prediction of one segment.

        Args:
            outputs: the graph's outputs for it, float32 [labels] by name; None if it has nothing to run the graph on.
            network_ms: its share of the batch's time.
        """
        manifest = self._manifest
        logits = {} if outputs is None else {name: outputs[f"logits_{name}"] for name in manifest.modalities}
        timings = {**segment.timings_ms, "network": network_ms}
        fused = fuse(logits, segment.sample.modalities if logits else (), manifest, self._fits)
        distances, doubt = unlike(segment.sample, self._domain) if fused.modalities else ({}, None)
        strange = ("out_of_domain",) if doubt else ()
        if self._certainty is not None and fused.probabilities and not doubt:
            doubt = self._certainty.doubt(max(fused.probabilities.values()), fused.fit)
        return Prediction(
            file=segment.file,
            start=segment.span.start,
            end=segment.span.end,
            probabilities=fused.probabilities,
            labels=() if doubt else fused.labels,
            logits=fused.logits,
            modality_logits=fused.modality_logits,
            contributions=fused.contributions,
            modalities=fused.modalities,
            left_out=segment.absent,
            faces_found=len(segment.faces),
            frames_seen=segment.frames_seen,
            text=segment.span.text,
            faces=segment.faces,
            others=segment.others,
            person=segment.person,
            words=segment.words,
            recogniser=segment.recogniser,
            language=segment.language.code if segment.language else None,
            language_probability=segment.language.probability if segment.language else None,
            timings_ms={stage: round(ms, 3) for stage, ms in timings.items()},
            flags=(*segment.flags, *(() if fused.modalities else ("nothing_to_go_on",)), *strange, *self._model_flags),
            calibrated=fused.fit is not None,
            thresholds=fused.thresholds,
            uncertain=doubt,
            quality={**segment.quality, **distances},
            video_tracks=segment.video_tracks,
            audio_tracks=segment.audio_tracks,
        )

    def close(self) -> None:
        """Free the backend's memory."""
        self.backend.close()

    @property
    def _ran(self) -> str:  # no path: a server's clients read it
        return f"{self._manifest.system} on {self.backend.name} ({self.backend.precision})"

    def _not_finite(self, outputs: Outputs) -> BadDataError | None:
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                return BadDataError(f"{self._ran} gives {name} that are not finite numbers", "try --precision fp32")
        return None

    def _failed(self, error: Exception, count: int) -> MmxError:
        said = str(error).strip().splitlines()
        reason = said[0] if said else type(error).__name__
        hint = "give it smaller batches (--batch-size) or shorter segments (--window), or another --backend"
        return BackendFailed(f"{self._ran} failed on {count} segment{'s' * (count > 1)}: {reason}", hint)


def media_bundle(bundle: Bundle | str | Path) -> Bundle:
    """A bundle, opened if it is not, whose system takes media. Raises what ``Bundle.open`` and ``require_media`` do."""
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    require_media(opened)
    return opened


def require_media(bundle: Bundle) -> None:
    """Raise UsageError for a system on extracted features: no media file can be made into its inputs."""
    if not set(bundle.manifest.graphs["fp32"].input_names) <= set(INPUTS):
        raise UsageError(
            f"{bundle.path} holds {bundle.manifest.system}, which takes features, not media files",
            "run it with mmx bench",
        )
