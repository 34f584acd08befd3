"""What a system is built from, as frozen dataclasses: plain data, no torch.

The defaults are the published sizes. A checkpoint's ``config`` is the dictionary that ``to_dict`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import FaceSpec, MelSpec

T = TypeVar("T")

Form = Literal["training", "deployed", "residual", "reserved"]
FORMS: dict[str, tuple[Form, ...]] = {
    "vgg": ("training",),
    "repvgg": ("training", "deployed"),
    "rfam": ("residual", "reserved", "deployed"),
}
"""The forms in which each visual block comes."""

FACE = FaceSpec().size
PIECE = (MelSpec().n_mels, MelSpec().columns)
MAX_SIZE, MAX_DEPTH = 1_000_000, 256
"""No width is larger and no stack deeper than this in a config that is believed."""


def _check(config: Any, depths: tuple[int, ...] = (), width: int = 0, heads: tuple[int, ...] = ()) -> None:
    """Reject sizes that cannot be built.

    Raises:
        BadDataError: a size that is not positive, a stack that is too deep, heads that do not divide the width.
    """
    name = type(config).__name__
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int) and not 0 <= value - (field.type != "bool") < MAX_SIZE:
            raise BadDataError(f"{name}.{field.name} is {value}", f"use a number from 1 to {MAX_SIZE}")
    if any(not 0 < depth <= MAX_DEPTH for depth in depths):
        raise BadDataError(f"{name}: a stack of {max(depths)} layers", f"use 1 to {MAX_DEPTH}")
    if any(head < 1 or width % head for head in heads):
        raise BadDataError(f"{name}: {heads} heads do not divide a width of {width}")


@dataclass(frozen=True)
class AlbertConfig:
    """ALBERT-base-v2's sizes: every layer shares one set of weights."""

    vocabulary: int = 30000
    positions: int = 512
    embedding: int = 128
    width: int = 768
    heads: int = 12
    feed_forward: int = 3072
    layers: int = 12

    def __post_init__(self) -> None:
        _check(self, depths=(self.layers,), width=self.width, heads=(self.heads,))


@dataclass(frozen=True)
class EncoderConfig:
    """The sequence encoder over faces or pieces: CLS and post-norm Transformer layers, no positions."""

    width: int = 64
    heads: int = 4
    feed_forward: int = 2048
    layers: int = 4

    def __post_init__(self) -> None:
        _check(self, depths=(self.layers,), width=self.width, heads=(self.heads,))


@dataclass(frozen=True)
class ConvTrunkConfig:
    """A convolution trunk: stem conv, BN, ReLU, 2x2 pool, then the plan's blocks.

    Attributes:
        block: vgg (FE2E), repvgg (V2EM) or rfam (ours: residual-free block and SimAM).
        plan: a block's output channels, or 0 for a 2x2 max pool.
        form: repvgg: training | deployed. rfam: residual | reserved | deployed (paper section 3.1). vgg: training.
        simam: rfam only. reference | paper (equation 2 divides the variance by N twice, the reference does not).
        hidden: width of the linear layer between the trunk and the encoder.
    """

    block: Literal["vgg", "repvgg", "rfam"] = "rfam"
    stem: int = 48
    stem_kernel: int = 5
    stem_bias: bool = True
    plan: tuple[int, ...] = (48, 48, 96, 0, 192, 0)
    form: Form = "residual"
    simam: Literal["reference", "paper"] = "reference"
    hidden: int = 1024

    def __post_init__(self) -> None:
        if self.form not in FORMS[self.block]:
            forms = ", ".join(FORMS[self.block])
            raise BadDataError(f"config: a {self.block} trunk has no {self.form} form", f"use one of {forms}")
        _check(self, depths=(len(self.plan),))
        if any(not 0 <= entry <= MAX_SIZE for entry in self.plan) or FACE >> self.pools == 0 or not any(self.plan):
            raise BadDataError(f"config: the plan {self.plan} leaves nothing of a {FACE}x{FACE} face")

    @property
    def channels(self) -> int:
        """Channels that leave the trunk."""
        return next((width for width in reversed(self.plan) if width), self.stem)

    @property
    def pools(self) -> int:
        """How often the trunk halves its input, the pool after the stem included."""
        return 1 + self.plan.count(0)


@dataclass(frozen=True)
class NestConfig:
    """NesT over a piece seen as [channels, side, side]; ``heads`` and ``widths`` by level, blocks halve at each."""

    channels: int = 4
    side: int = 32
    widths: tuple[int, ...] = (128, 256, 512)
    heads: tuple[int, ...] = (4, 8, 16)
    depths: tuple[int, ...] = (2, 2, 20)
    mlp_ratio: int = 4
    classes: int = 1000
    hidden: int = 1024

    def __post_init__(self) -> None:
        _check(self, depths=self.depths)
        if not len(self.widths) == len(self.heads) == len(self.depths):
            raise BadDataError("config: NesT needs as many widths as heads and depths")
        for width, heads in zip(self.widths, self.heads, strict=True):
            _check(self, width=width, heads=(heads,))
        if self.channels * self.side != PIECE[0] or self.side != PIECE[1] or self.side >> (len(self.widths) - 1) == 0:
            raise BadDataError(f"config: NesT cannot cut a {PIECE} piece in {self.channels} planes of {self.side}")


@dataclass(frozen=True)
class FocalNetConfig:
    """FocalNet over a piece seen as [channels, side, 32]; widths double at each stage."""

    channels: int = 4
    side: int = 32
    patch: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 18, 2)
    focal_levels: int = 2
    focal_window: int = 3
    mlp_ratio: int = 4
    classes: int = 1000

    def __post_init__(self) -> None:
        _check(self, depths=self.depths)
        side = self.patch << (len(self.depths) - 1)
        if self.channels * self.side != PIECE[0] or self.side % side or PIECE[1] % side or self.focal_window % 2 == 0:
            raise BadDataError(f"config: FocalNet cannot cut a {PIECE} piece in {self.channels} planes of {self.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the map that a piece is seen as: square with 4 channels."""
        return self.side, PIECE[1]

    @property
    def features(self) -> int:
        """Channels of the last stage, which the pooled vector has."""
        return self.width << (len(self.depths) - 1)


V2EM_VISUAL = ConvTrunkConfig(block="repvgg", stem=64, plan=(64, 64, 128, 0, 256, 0, 512, 0), form="training")
FE2E_TRUNK = ConvTrunkConfig(block="vgg", stem=64, plan=(64, 64, 128, 0, 256, 0, 512, 0), form="training")


@dataclass(frozen=True)
class MultimodalConfig:
    """A system of three towers (text, visual, audio) and a weighted fusion. Defaults: ``ours``."""

    visual: ConvTrunkConfig = ConvTrunkConfig()
    audio: ConvTrunkConfig | NestConfig | FocalNetConfig = FocalNetConfig()
    text: AlbertConfig = AlbertConfig()
    encoder: EncoderConfig = EncoderConfig()
    labels: int = 6

    def __post_init__(self) -> None:
        _check(self)

    @property
    def form(self) -> str:
        """The checkpoint's form, which the visual trunk alone decides."""
        return self.visual.form


@dataclass(frozen=True)
class LstmConfig:
    """LF-LSTM: feature sizes of the three sequences, and how many labels."""

    text: int = 300
    audio: int = 144
    visual: int = 35
    labels: int = 6
    form: ClassVar[str] = "training"

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class TransConfig:
    """LF-TRANS: as LF-LSTM; ``heads`` of the text, audio and visual encoders."""

    text: int = 300
    audio: int = 144
    visual: int = 35
    labels: int = 6
    heads: tuple[int, ...] = (4, 2, 5)
    feed_forward: int = 2048
    layers: int = 2
    form: ClassVar[str] = "training"

    def __post_init__(self) -> None:
        _check(self, depths=(self.layers,))
        if len(self.heads) != 3:
            raise BadDataError("config: LF-TRANS has three encoders", "give heads for text, audio and visual")
        for width, heads in zip((self.text, self.audio, self.visual), self.heads, strict=True):
            _check(self, width=width, heads=(heads,))


@dataclass(frozen=True)
class MultConfig:
    """MulT: feature sizes, the common width, and whether attention hides the future (upstream's default)."""

    text: int = 300
    audio: int = 74
    visual: int = 35
    labels: int = 6
    width: int = 30
    heads: int = 5
    layers: int = 5
    future_mask: bool = True
    form: ClassVar[str] = "training"

    def __post_init__(self) -> None:
        _check(self, depths=(self.layers,), width=self.width, heads=(self.heads,))
        if self.width < 4:
            raise BadDataError(f"MultConfig.width is {self.width}", "positions need a width of 4 or more")


PARTS = {
    "text": ("T", "t_out"),
    "visual": ("normalise", "V", "v_flatten", "v_transformer", "v_out"),
    "audio": ("A", "a_flatten", "a_transformer", "a_out"),
}
"""The modules that belong to one modality alone."""

AUDIO_KINDS = {"conv": ConvTrunkConfig, "nest": NestConfig, "focalnet": FocalNetConfig}


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON data; a trunk that has alternatives carries its ``kind``."""
    plain = asdict(config)
    if isinstance(config, MultimodalConfig):
        kind = next(name for name, cls in AUDIO_KINDS.items() if cls is type(config.audio))
        plain["audio"] = {"kind": kind, **plain["audio"]}
    return plain


def from_dict(cls: type[T], values: Mapping[str, Any], base: T | None = None, where: str = "config") -> T:
    """Build the dataclass ``cls`` from plain data; what ``values`` leaves out is as in ``base`` (or the defaults).

    Raises:
        BadDataError: an unknown key, a value of the wrong type, or sizes that do not fit together.
    """
    if not isinstance(values, Mapping):
        raise BadDataError(f"{where}: expected a dictionary, found {type(values).__name__}")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(repr(key)[:60] for key in values if key not in known):
        raise BadDataError(f"{where}: unknown key {unknown[0]}", f"known keys: {', '.join(sorted(known))}")
    hints = get_type_hints(cls)
    built = {} if base is None else {f.name: getattr(base, f.name) for f in fields(cls)}  # type: ignore[arg-type]
    for name, value in values.items():
        built[name] = _value(hints[name], value, built.get(name), f"{where}.{name}")
    return cls(**built)


def _value(kind: Any, value: Any, base: Any, where: str) -> Any:
    options = get_args(kind)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and type(value) is int:
        return value
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)) and 0 < len(value) <= 64:
        return tuple(_value(options[0], item, None, f"{where}[{i}]") for i, item in enumerate(value))
    if get_origin(kind) is Literal and isinstance(value, str) and value in options:
        return value
    if hasattr(kind, "__dataclass_fields__"):
        return from_dict(kind, value, base, where)
    if set(options) == set(AUDIO_KINDS.values()) and isinstance(value, Mapping):
        rest = dict(value)
        chosen = rest.pop("kind", None)
        cls: Any = AUDIO_KINDS.get(chosen) if isinstance(chosen, str) else None if chosen else type(base)
        if cls in AUDIO_KINDS.values():
            return from_dict(cls, rest, base if type(base) is cls else None, where)
        raise BadDataError(f"{where}.kind: {chosen!r:.60}", f"use one of {', '.join(AUDIO_KINDS)}")
    wanted = " | ".join(map(str, options)) if get_origin(kind) is Literal else getattr(kind, "__name__", str(kind))
    raise BadDataError(f"{where}: expected {wanted}, found {value!r:.60}")
