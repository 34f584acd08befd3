"""The three-tower systems: ours, V2EM, FE2E and the hybrids. One module; its config says which.

Attribute names are those of the public files: ``T.albert``, ``V``, ``A``, ``v_flatten``, ``a_flatten``,
``v_transformer``, ``a_transformer``, ``t_out``, ``v_out``, ``a_out``, ``weighted_fusion``.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from mmx.models.albert import TextTower
from mmx.models.config import PARTS, ConvTrunkConfig, FocalNetConfig, MultimodalConfig, NestConfig
from mmx.models.encoder import SequenceEncoder
from mmx.models.focalnet import FocalNet
from mmx.models.nest import Nest
from mmx.models.vgg import conv_trunk
from mmx.runtime.manifest import FaceSpec, MelSpec
from mmx.runtime.types import MODALITIES

FACE_MEAN, FACE_STD = (159.0, 111.0, 102.0), (37.0, 33.0, 32.0)  # of RGB 0..255


class Normalise(nn.Module):
    """RGB 0..255 -> (x - mean) / std by channel. Its constants are the reference's, not part of a checkpoint."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", FACE_MEAN), ("std", FACE_STD)):
            # An explicit device, because a checkpoint's module is built on "meta" first.
            self.register_buffer(name, torch.tensor(values, device="cpu").view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[faces, 3, H, W], same out."""
        return (x - self.mean) / self.std


def audio_trunk(config: ConvTrunkConfig | NestConfig | FocalNetConfig) -> nn.Sequential:
    """The trunk ``A``; its input is what ``MultimodalSystem.audio_input`` makes of the pieces."""
    if isinstance(config, ConvTrunkConfig):
        return conv_trunk(1, config)
    return nn.Sequential(Nest(config) if isinstance(config, NestConfig) else FocalNet(config))


def _two_linear(features: int, hidden: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, width))


class MultimodalSystem(nn.Module):
    """Towers over ragged faces and pieces and over padded text, a sequence encoder each, and a weighted fusion.

    Inputs are those of the graph contract:
        input_ids, attention_mask: int64 [batch, tokens].
        faces: float32 [faces, 3, 48, 48], RGB 0..255. face_index: int64 [batch, face_slots], -1 = padding.
        pieces: float32 [pieces, 128, 32], raw mel power. piece_index: int64 [batch, piece_slots], -1 = padding.

    Returns (logits, logits_text, logits_visual, logits_audio), each float32 [batch, labels]. A sample's logits
    depend on its own rows alone.

    Attributes: ``modalities``: in fusion order; all three, until ``keep`` drops some. The inputs of a modality that was
    dropped are not needed, and its logits are not returned.
    """

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities: tuple[str, ...] = MODALITIES
        visual, audio, width = config.visual, config.audio, config.encoder.width
        mel = MelSpec()
        self.normalise = Normalise()
        self.T = TextTower(config.text)
        self.V = conv_trunk(3, visual)
        self.A = audio_trunk(audio)
        self.v_flatten = _two_linear(visual.channels * (FaceSpec().size >> visual.pools) ** 2, visual.hidden, width)
        self.a_flatten: nn.Module
        if isinstance(audio, FocalNetConfig):
            self.a_flatten = nn.Linear(audio.features, width)
        elif isinstance(audio, NestConfig):
            side = audio.side >> (len(audio.widths) - 1)
            self.a_flatten = _two_linear(audio.widths[-1] * side * side, audio.hidden, width)
        else:
            area = (mel.n_mels >> audio.pools) * (mel.columns >> audio.pools)
            self.a_flatten = _two_linear(audio.channels * area, audio.hidden, width)
        self.v_transformer = SequenceEncoder(config.encoder)
        self.a_transformer = SequenceEncoder(config.encoder)
        self.t_out = nn.Linear(config.text.width, config.labels)
        self.v_out = nn.Linear(width, config.labels)
        self.a_out = nn.Linear(width, config.labels)
        self.weighted_fusion = nn.Linear(3, 1, bias=False)

    def audio_input(self, pieces: Tensor) -> Tensor:
        """[pieces, 128, 32] as the audio trunk takes it: one plane, or its rows cut in ``channels`` square planes."""
        audio = self.config.audio
        if isinstance(audio, ConvTrunkConfig):
            return pieces[:, None]
        return pieces.unflatten(1, (audio.channels, audio.side))

    def keep(self, modalities: Collection[str]) -> None:
        """Drop the towers of all but these modalities, in place.

        The fused logits are then the sum over those kept: what the fusion makes of a sample that lacks the others.
        """
        kept = [name for name in self.modalities if name in modalities]
        fusion = nn.Linear(len(kept), 1, bias=False)
        columns = [self.modalities.index(name) for name in kept]
        fusion.weight = nn.Parameter(self.weighted_fusion.weight.detach()[:, columns])
        self.weighted_fusion = fusion.requires_grad_(self.weighted_fusion.weight.requires_grad)
        for name in set(self.modalities) - set(kept):
            for part in PARTS[name]:
                delattr(self, part)
        self.modalities = tuple(kept)

    def fuse(self, *logits: Tensor) -> Tensor:
        """Weighted sum of the modalities' raw logits, each [batch, labels]."""
        fused: Tensor = self.weighted_fusion(torch.stack(logits, dim=-1)).squeeze(-1)
        return fused

    def text_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[batch, tokens] -> [batch, labels], of the [CLS] state."""
        logits: Tensor = self.t_out(self.T(input_ids, attention_mask))
        return logits

    def visual_logits(self, faces: Tensor, face_index: Tensor) -> Tensor:
        """[faces, 3, 48, 48] and [batch, face_slots] -> [batch, labels]."""
        features = self.v_flatten(self.V(self.normalise(faces)).flatten(1))
        logits: Tensor = self.v_out(self.v_transformer.gather(features, face_index))
        return logits

    def audio_logits(self, pieces: Tensor, piece_index: Tensor) -> Tensor:
        """[pieces, 128, 32] and [batch, piece_slots] -> [batch, labels]."""
        features = self.a_flatten(self.A(self.audio_input(pieces)).flatten(1))
        logits: Tensor = self.a_out(self.a_transformer.gather(features, piece_index))
        return logits

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        faces: Tensor | None = None,
        face_index: Tensor | None = None,
        pieces: Tensor | None = None,
        piece_index: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See the class."""
        given = {
            "text": (input_ids, attention_mask),
            "visual": (faces, face_index),
            "audio": (pieces, piece_index),
        }
        each: list[Tensor] = [getattr(self, f"{name}_logits")(*given[name]) for name in self.modalities]
        return self.fuse(*each), *each
