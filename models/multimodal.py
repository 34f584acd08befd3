"""The three-tower systems: ours, V2EM, FE2E and the hybrids. One module, told apart by its config.

Attribute names are those of the public files: ``T.albert``, ``V``, ``A``, ``v_flatten``, ``a_flatten``,
``v_transformer``, ``a_transformer``, ``t_out``, ``v_out``, ``a_out``, ``weighted_fusion``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmx.models.albert import TextTower
from mmx.models.config import ConvTrunkConfig, FocalNetConfig, MultimodalConfig, NestConfig
from mmx.models.encoder import SequenceEncoder
from mmx.models.focalnet import FocalNet
from mmx.models.nest import Nest
from mmx.models.vgg import conv_trunk
from mmx.runtime.manifest import FaceSpec, MelSpec


class Normalise(nn.Module):
    """RGB 0..255 -> (x - mean) / std by channel. Its constants are the reference's, not part of a checkpoint."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: FaceSpec) -> None:
        super().__init__()
        for name, values in (("mean", spec.mean), ("std", spec.std)):
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
    """

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__()
        self.config = config
        visual, audio, width = config.visual, config.audio, config.encoder.width
        mel = MelSpec()
        self.normalise = Normalise(FaceSpec())
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

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[batch, tokens] -> the [CLS] state [batch, text width]."""
        features: Tensor = self.T(input_ids, attention_mask)
        return features

    def visual_features(self, faces: Tensor) -> Tensor:
        """[faces, 3, 48, 48] -> [faces, encoder width]."""
        features: Tensor = self.v_flatten(self.V(self.normalise(faces)).flatten(1))
        return features

    def audio_features(self, pieces: Tensor) -> Tensor:
        """[pieces, 128, 32] -> [pieces, encoder width]."""
        features: Tensor = self.a_flatten(self.A(self.audio_input(pieces)).flatten(1))
        return features

    def fuse(self, text: Tensor, visual: Tensor, audio: Tensor) -> Tensor:
        """Weighted sum of the modalities' raw logits, each [batch, labels]."""
        return self.weighted_fusion(torch.stack([text, visual, audio], dim=-1)).squeeze(-1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        faces: Tensor,
        face_index: Tensor,
        pieces: Tensor,
        piece_index: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class."""
        text = self.t_out(self.text_features(input_ids, attention_mask))
        visual = self.v_out(self.v_transformer.gather(self.visual_features(faces), face_index))
        audio = self.a_out(self.a_transformer.gather(self.audio_features(pieces), piece_index))
        return self.fuse(text, visual, audio), text, visual, audio
