"""Every system of the paper: what it is called, what it is built from, and the parameters it must have.

Plain facts; torch is imported only when a system is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmx.models.config import (
    FE2E_TRUNK,
    FORMS,
    V2EM_VISUAL,
    AlbertConfig,
    ConvTrunkConfig,
    EncoderConfig,
    FocalNetConfig,
    LstmConfig,
    MultConfig,
    MultimodalConfig,
    NestConfig,
    TransConfig,
    from_dict,
)
from mmx.runtime.errors import UsageError
from mmx.runtime.types import MODALITIES

if TYPE_CHECKING:
    from torch import nn

FACE_DETECTOR = 495_850
"""Parameters of the MTCNN inside the public V2EM and FE2E modules; their published totals include it, ours do not."""


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        name: what the command line and the manifest call it. title: for people.
        modalities: in fusion order.
        inputs: media (faces, mel pieces, token ids) or features (three sequences of precomputed features).
        presets: configs by name; ``full`` is the published one, ``tiny`` the same code, narrow and shallow.
        parameters: exact counts of the ``full`` preset, unused heads included, as the paper counts them (table 5): the
            text, visual and audio trunks (late fusion: the whole branch), and the total. ``published`` is the public
            file's total where it differs; another preset's name stands for that preset's total.
        module: where the class is.
    """

    name: str
    title: str
    modalities: tuple[str, ...]
    inputs: str
    presets: Mapping[str, Any]
    parameters: Mapping[str, int]
    module: str

    def config(self, values: Mapping[str, Any] | None = None, preset: str = "full") -> Any:
        """The config that ``values`` (plain data, may be partial) says, on top of a preset.

        Raises:
            UsageError: no such preset. BadDataError: ``values`` has an unknown key or a wrong type.
        """
        if preset not in self.presets:
            raise UsageError(f"{self.name} has no preset {preset!r}", f"use one of {', '.join(self.presets)}")
        base = self.presets[preset]
        return base if values is None else from_dict(type(base), values, base)

    def build(self, config: Any = None) -> nn.Module:
        """The module with freshly initialised weights. ``config``: None (full), plain data, or a config object."""
        if config is None or isinstance(config, Mapping):
            config = self.config(config)
        module, name = self.module.split(":")
        made: nn.Module = getattr(importlib.import_module(module), name)(config)
        return made


_TINY_TRUNKS = {
    "rfam": ConvTrunkConfig(stem=8, plan=(8, 8, 16, 0, 24, 0), hidden=32),
    "repvgg": replace(V2EM_VISUAL, stem=8, plan=(8, 8, 16, 0, 24, 0, 32, 0), hidden=32),
    "vgg": replace(FE2E_TRUNK, stem=8, plan=(8, 8, 16, 0, 24, 0, 32, 0), hidden=32),
    "nest": NestConfig(widths=(16, 32, 32), heads=(2, 4, 4), depths=(1, 1, 1), classes=10, hidden=32),
    "focalnet": FocalNetConfig(width=8, depths=(1, 1, 1, 1), classes=10),
}
_FULL_TRUNKS = {
    "rfam": ConvTrunkConfig(),
    "repvgg": V2EM_VISUAL,
    "vgg": FE2E_TRUNK,
    "nest": NestConfig(),
    "focalnet": FocalNetConfig(),
}


def _media(name: str, title: str, visual: str, audio: str, parameters: dict[str, int]) -> System:
    full = MultimodalConfig(visual=_FULL_TRUNKS[visual], audio=_FULL_TRUNKS[audio])  # type: ignore[arg-type]
    tiny = MultimodalConfig(
        visual=_TINY_TRUNKS[visual],  # type: ignore[arg-type]
        audio=_TINY_TRUNKS[audio],  # type: ignore[arg-type]
        text=AlbertConfig(positions=128, embedding=16, width=32, heads=4, feed_forward=64, layers=2),
        encoder=EncoderConfig(width=16, heads=4, feed_forward=32, layers=1),
    )
    presets: dict[str, Any] = {"full": full, "tiny": tiny}
    for form in FORMS[full.visual.block]:
        if form != full.form:
            presets[form] = replace(full, visual=replace(full.visual, form=form))
            presets[f"tiny-{form}"] = replace(tiny, visual=replace(tiny.visual, form=form))
    return System(name, title, MODALITIES, "media", presets, parameters, "mmx.models.multimodal:MultimodalSystem")


def _features(name: str, title: str, presets: dict[str, Any], parameters: dict[str, int], module: str) -> System:
    return System(name, title, ("text", "audio", "visual"), "features", presets, parameters, module)


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        _media(
            "ours",
            "Residual-free attention + FocalNet + ALBERT (Jia et al.)",
            "rfam",
            "focalnet",
            {"text": 11_683_584, "visual": 733_920, "audio": 49_892_752, "total": 71_758_725},
        ),
        _media(
            "v2em",
            "V2EM: RepVGG + NesT + ALBERT (Wei et al. 2023)",
            "repvgg",
            "nest",
            {
                "text": 11_683_584,
                "visual": 1_811_584,
                "audio": 67_248_744,
                "total": 121_404_925,
                "published": 121_404_925 + FACE_DETECTOR,
            },
        ),
        _media(
            "fe2e",
            "FE2E: VGG + VGG + ALBERT (Dai et al. 2021)",
            "vgg",
            "vgg",
            {
                "text": 11_683_584,
                "visual": 4_803_456,
                "audio": 4_800_256,
                "total": 36_782_485,
                "published": 36_782_485 + FACE_DETECTOR,
            },
        ),
        _media(
            "v2em-visual+focal",
            "RepVGG + FocalNet + ALBERT: V + A(Ours) + T",
            "repvgg",
            "focalnet",
            {"text": 11_683_584, "visual": 1_811_584, "audio": 49_892_752, "total": 70_477_093},
        ),
        _media(
            "rfam+nest",
            "Residual-free attention + NesT + ALBERT: V(Ours) + A + T",
            "rfam",
            "nest",
            {"text": 11_683_584, "visual": 733_920, "audio": 67_248_744, "total": 122_686_557},
        ),
        _features(
            "lf-lstm",
            "LF-LSTM: bidirectional LSTMs, late fusion",
            {"full": LstmConfig(), "tiny": LstmConfig(12, 8, 10)},
            {"text": 1_626_906, "visual": 22_861, "audio": 376_566, "total": 2_026_336},
            "mmx.models.late_fusion:LfLstm",
        ),
        _features(
            "lf-trans",
            "LF-TRANS: Transformers, late fusion",
            {"full": TransConfig(), "tiny": TransConfig(12, 8, 10, feed_forward=32)},
            {"text": 3_233_452, "visual": 302_001, "audio": 1_363_246, "total": 4_898_702},
            "mmx.models.late_fusion:LfTransformer",
        ),
        _features(
            "mult",
            "MulT: cross-modal Transformers (Tsai et al. 2019)",
            {
                "full": MultConfig(),
                "sentiment": MultConfig(labels=1),
                "pairs": MultConfig(labels=8),
                "tiny": MultConfig(12, 8, 10, width=10, layers=2),
            },
            {"total": 1_074_636, "sentiment": 1_073_731, "pairs": 1_074_998},
            "mmx.models.mult:Mult",
        ),
    )
}


def get_system(name: str) -> System:
    """The system called ``name``.

    Raises:
        UsageError: there is none; the hint lists those there are.
    """
    if name not in SYSTEMS:
        raise UsageError(f"no system is called {name!r:.60}", f"known systems: {', '.join(SYSTEMS)}")
    return SYSTEMS[name]
