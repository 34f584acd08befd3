"""The bundle's manifest.json as frozen dataclasses: preprocessing as data, graphs, parity, provenance.

Whatever changes the numbers is written here, so that a bundle needs no code of the machine that made it.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mmx.runtime.errors import BadDataError

COMPATS = ("default", "upstream")
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class VideoSpec:
    """How frames are taken from a video, and what stands in for a frame without a face.

    ``interval_s``: one frame each so many seconds, by timestamp. ``every_nth``: every n-th frame instead, as the public
    data sets' loaders do it (0 = by time). ``no_face``: center | skip | mask | error.
    """

    interval_s: float = 0.5
    every_nth: int = 0
    no_face: str = "center"


@dataclass(frozen=True)
class FaceSpec:
    """MTCNN as facenet-pytorch 2.6 runs it: pixels, probabilities, and the crop that the visual tower takes.

    ``resample``: how the crop is resized. opencv = cv2.INTER_AREA on float32, which facenet-pytorch uses on arrays (the
    public data sets' loaders give it float32 ones); torch = interpolate(mode="area"), which it uses on tensors.
    """

    min_face: int = 20
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    factor: float = 0.709
    margin: int = 2
    size: int = 48
    resample: str = "opencv"
    mean: tuple[float, float, float] = (159.0, 111.0, 102.0)
    std: tuple[float, float, float] = (37.0, 33.0, 32.0)


@dataclass(frozen=True)
class MelSpec:
    """torchaudio's MelSpectrogram defaults at 16 kHz (power 2, HTK, no norm, no log), cut in pieces of 32 columns."""

    sample_rate: int = 16000
    n_fft: int = 400
    hop: int = 200
    n_mels: int = 128
    columns: int = 32


@dataclass(frozen=True)
class TextSpec:
    """ALBERT's SentencePiece ids: [CLS] ids [SEP], cut to ``max_tokens``."""

    max_tokens: int = 100
    cls_id: int = 2
    sep_id: int = 3
    pad_id: int = 0
    lower_case: bool = True


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
    max_segment_s: float = 120.0
    compat: str = "default"


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output: numpy dtype name and axes, a number where fixed and a name where dynamic."""

    name: str
    dtype: str
    axes: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file of the bundle and the parity measured when it was made (see ``export.parity``)."""

    file: str
    precision: str
    opset: int
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
        graphs: by precision, ``fp32`` always there.
        files: SHA-256 by path relative to the bundle, of every file but the manifest.
        folding: what ``export.folding`` reports. provenance: versions, command, checkpoint hash.
    """

    schema_version: int
    system: str
    form: str
    dataset: str
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    modalities: tuple[str, ...]
    fusion_weights: dict[str, float]
    preprocessing: Preprocessing
    graphs: dict[str, GraphSpec]
    files: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    folding: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest as indented JSON with a final newline."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.json.

    Raises:
        BadDataError: not JSON, an unknown schema_version, or a field that is missing, unknown or of the wrong type.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise BadDataError(
            f"{path} is missing", "this folder is not a finished mmx bundle; run mmx export again"
        ) from e
    except (OSError, ValueError, RecursionError) as e:
        raise BadDataError(f"{path} is not readable JSON: {e}", "run mmx export again") from e
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise BadDataError(
            f"{path} has schema_version {version!r}; this mmx reads {SCHEMA_VERSION}",
            "export again with this version, or install the mmx that made the bundle",
        )
    manifest: Manifest = from_plain(Manifest, raw, str(path))
    return manifest


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """Build ``kind`` (a dataclass, a tuple, dict, list or plain type) from parsed JSON, or say what does not fit."""
    if kind is Any:
        return value
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise BadDataError(f"{where}: expected an object, found {type(value).__name__}")
        hints = get_type_hints(kind)
        known = {f.name for f in fields(kind)}
        if unknown := sorted(set(value) - known):
            raise BadDataError(f"{where}: unknown field {unknown[0]!r}", "the bundle was made by another mmx")
        built = {name: from_plain(hints[name], item, f"{where}: {name}") for name, item in value.items()}
        needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        if missing := [name for name in needed if name not in built]:
            raise BadDataError(f"{where}: {missing[0]!r} is missing", "make it again")
        return kind(**built)
    if origin in (Union, UnionType):
        matching = [option for option in args if _fits(option, value)]
        if not matching:
            raise BadDataError(f"{where}: {value!r} is none of {args}")
        return from_plain(matching[0], value, where)
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise BadDataError(f"{where}: expected a list, found {type(value).__name__}")
        if origin is list or (len(args) == 2 and args[1] is Ellipsis):
            return origin(from_plain(args[0], item, where) for item in value)
        if len(value) != len(args):
            raise BadDataError(f"{where}: expected {len(args)} values, found {len(value)}")
        return tuple(from_plain(a, item, where) for a, item in zip(args, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise BadDataError(f"{where}: expected an object, found {type(value).__name__}")
        return {key: from_plain(args[1], item, f"{where}[{key}]") for key, item in value.items()}
    if not _fits(kind, value):
        raise BadDataError(f"{where}: expected {kind.__name__}, found {value!r}")
    return float(value) if kind is float else value


def _fits(kind: Any, value: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
