"""The bundle's manifest.json as frozen dataclasses: preprocessing as data, the graph, parity, provenance.

Whatever changes the numbers is written here, so that a bundle needs no code of the machine that made it. Every number
and name has its bound beside its type; ``runtime.manifest_reader`` also holds them against each other.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from mmx.runtime.from_json import Name, OneOf, Within

COMPATS = ("default", "upstream")
SCHEMA_VERSION = 2

Probability = Annotated[float, Within(0, 1)]
TokenId = Annotated[int, Within(0, 2**31 - 1)]


@dataclass(frozen=True)
class VideoSpec:
    """How frames are taken from a video, and what stands in for a frame without a face.

    ``interval_s``: one frame each so many seconds, by timestamp. ``every_nth``: every n-th frame instead, as the public
    data sets' loaders do it (0 = by time). ``no_face``: center | skip | mask | error. ``hdr``: map (PQ and HLG are
    brought to the range of other video) | keep (their values are taken as they are).
    """

    interval_s: Annotated[float, Within(0.01, 3600)] = 0.5
    every_nth: Annotated[int, Within(0, 100_000)] = 0
    no_face: Annotated[str, OneOf(("center", "skip", "mask", "error"))] = "center"
    hdr: Annotated[str, OneOf(("map", "keep"))] = "map"


@dataclass(frozen=True)
class FaceSpec:
    """MTCNN as facenet-pytorch 2.6 runs it: pixels, probabilities, and the crop that the visual tower takes.

    ``resample``: how the crop is resized. opencv = cv2.INTER_AREA on float32, which facenet-pytorch uses on arrays (the
    public data sets' loaders give it float32 ones); torch = interpolate(mode="area"), which it uses on tensors.
    ``size`` is that of the graph contract. Normalisation is inside the graph.
    """

    min_face: Annotated[int, Within(1, 4096)] = 20
    thresholds: tuple[Probability, Probability, Probability] = (0.6, 0.7, 0.7)
    factor: Annotated[float, Within(0.1, 0.95)] = 0.709
    margin: Annotated[int, Within(0, 47)] = 2
    size: Annotated[int, OneOf((48,))] = 48
    resample: Annotated[str, OneOf(("opencv", "torch"))] = "opencv"


@dataclass(frozen=True)
class MelSpec:
    """torchaudio's MelSpectrogram defaults at 16 kHz (power 2, HTK, no norm, no log), cut in pieces of 32 columns.

    ``n_mels`` and ``columns`` are those of the graph contract.
    ``mix``: how channels become one: layout (as FFmpeg mixes them; stereo is the mean) | mean (of all channels).
    ``own_rate``: the spectrogram is computed at the file's own sample rate, with ``n_fft`` and ``hop`` as long in
    seconds (1102 and 551 at 44.1 kHz), as the public MOSEI loader does it; otherwise the sound is resampled to
    ``sample_rate``.
    """

    sample_rate: Annotated[int, Within(4000, 96_000)] = 16000
    n_fft: Annotated[int, Within(64, 16_384)] = 400
    hop: Annotated[int, Within(32, 16_384)] = 200
    n_mels: Annotated[int, OneOf((128,))] = 128
    columns: Annotated[int, OneOf((32,))] = 32
    mix: Annotated[str, OneOf(("layout", "mean"))] = "layout"
    own_rate: bool = False


@dataclass(frozen=True)
class TextSpec:
    """ALBERT's SentencePiece ids: [CLS] ids [SEP], cut to ``max_tokens``.

    ``languages``: those that the text model was trained for (ISO 639-1); recognised words of others are left out.
    """

    max_tokens: Annotated[int, Within(2, 65_536)] = 100
    cls_id: TokenId = 2
    sep_id: TokenId = 3
    pad_id: TokenId = 0
    lower_case: bool = True
    languages: tuple[Name, ...] = ("en",)


@dataclass(frozen=True)
class QualitySpec:
    """When a segment's sound carries nothing, so that it is left out; None: never (``runtime.quality``).

    ``silence_dbfs``: its level is below this. ``noise_flatness``: its level hardly varies, and its spectrum is flatter.
    """

    silence_dbfs: Annotated[float, Within(-120, 0)] | None = None
    noise_flatness: Probability | None = None

    @classmethod
    def usual(cls) -> QualitySpec:
        """What bundles are exported with, unless they follow the public code."""
        return cls(silence_dbfs=-70.0, noise_flatness=0.9)


@dataclass(frozen=True)
class Preprocessing:
    """Everything between a media file and the graph's inputs.

    ``max_segment_s``: an utterance longer than this is cut into equal parts, so that memory stays bounded.
    ``compat``: default | upstream (the habits of the public demo and of the public data sets' loaders).
    """

    video: VideoSpec = VideoSpec()
    faces: FaceSpec = FaceSpec()
    mel: MelSpec = MelSpec()
    text: TextSpec = TextSpec()
    quality: QualitySpec = QualitySpec()
    max_segment_s: Annotated[float, Within(0.1, 600)] = 120.0
    compat: Annotated[str, OneOf(COMPATS)] = "default"


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output: numpy dtype name and axes, a number where fixed and a name where dynamic."""

    name: Name
    dtype: Name
    axes: tuple[Annotated[int, Within(0, 2**31 - 1)] | Name, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file; ``parity`` is how near it comes to PyTorch (``export.parity``), or to the FP32 graph."""

    file: Name
    precision: Name
    opset: Annotated[int, Within(1, 1000)]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parity: dict[str, Any] = field(default_factory=dict)

    @property
    def input_names(self) -> tuple[str, ...]:
        """What a run must be given; a bundle exported without a modality lacks its inputs."""
        return tuple(tensor.name for tensor in self.inputs)


@dataclass(frozen=True)
class Manifest:
    """manifest.json.

    Attributes:
        system, form: registry name and the checkpoint's form (training, deployed, ...).
        dataset: iemocap | mosei | the name in the checkpoint's config.
        labels: in the order of the logits. thresholds: one probability per label.
        modalities: in fusion order. fusion_weights: by modality; fused logit = sum of weight * logit.
        graphs: ``fp32`` and no other; what is derived from it lies under ``variants/`` (``runtime.variants``).
        files: SHA-256 by path relative to the bundle, of every file but the manifest.
        folding: what ``export.folding`` reports. provenance: versions, command, checkpoint hash.
    """

    schema_version: Annotated[int, OneOf((SCHEMA_VERSION,))]
    system: Name
    form: Name
    dataset: Name
    labels: tuple[Name, ...]
    thresholds: tuple[Probability, ...]
    modalities: tuple[Name, ...]
    fusion_weights: dict[Name, Annotated[float, Within(-1e6, 1e6)]]
    preprocessing: Preprocessing
    graphs: dict[Name, GraphSpec]
    files: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    folding: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest as indented JSON with a final newline."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
