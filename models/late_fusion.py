"""LF-LSTM and LF-TRANS (baselines of Dai et al. 2021): a sequence model per modality, late weighted fusion.

The public code mixes samples: LF-LSTM runs its LSTMs over the padding of all three sequences, and LF-TRANS lets text
attend to its padding, so that a sample's logits depend on the longest one in its batch. Here each sample gets what the
public code gives it alone. ``original_padding = True`` brings the public code's behaviour back (in PyTorch only).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmx.models.config import EncoderConfig, LstmConfig, TransConfig
from mmx.models.encoder import SequenceEncoder
from mmx.models.lstm import BiLstm
from mmx.models.sequences import inside, last_row, trim


def affine(features: int, hidden: int, labels: int) -> nn.Sequential:
    """A modality's classifier."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, labels))


class LateFusion(nn.Module):
    """What both share: three features, three classifiers, one bias-free fusion in the order text, audio, visual.

    Inputs: text, audio, visual float32 [batch, length, features], each with its own length; text_len, audio_len,
    visual_len int64 [batch]. What lies past a sample's length is not read; a length of 0 counts as one row of zeros.

    Returns (logits, logits_text, logits_visual, logits_audio), each [batch, labels].

    Attributes:
        original_padding: take padding for data where the public code does.
    """

    original_padding = False

    def __init__(self, config: LstmConfig | TransConfig) -> None:
        super().__init__()
        self.config = config
        self.affines = nn.ModuleDict()
        self.weighted_fusion = nn.Linear(3, 1, bias=False)

    def encode(self, key: str, x: Tensor, length: Tensor) -> Tensor:
        """One modality (t, a or v) as a vector: what its classifier takes."""
        raise NotImplementedError

    def forward(
        self, text: Tensor, audio: Tensor, visual: Tensor, text_len: Tensor, audio_len: Tensor, visual_len: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class."""
        sequences = (("t", text, text_len), ("a", audio, audio_len), ("v", visual, visual_len))
        t, a, v = (self.affines[key](self.encode(key, x, length)) for key, x, length in sequences)
        return self.weighted_fusion(torch.stack([t, a, v], dim=-1)).squeeze(-1), t, v, a


class LfLstm(LateFusion):
    """Bidirectional LSTMs: text by the output at its last row, audio and visual by both final states."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        sizes = {"t": config.text, "a": config.audio, "v": config.visual}
        self.rnns = nn.ModuleDict({key: BiLstm(size) for key, size in sizes.items()})
        self.affines.update({key: affine(2 * size, size, config.labels) for key, size in sizes.items()})

    def encode(self, key: str, x: Tensor, length: Tensor) -> Tensor:
        """[batch, length, features] -> [batch, 2 * features]."""
        x, length = trim(x, length, self.original_padding)
        rnn = self.rnns[key]
        assert isinstance(rnn, BiLstm)
        return rnn.last_output(x, length, last_row(x, length)) if key == "t" else rnn.final_states(x, length)


class LfTransformer(LateFusion):
    """CLS encoders without positions, one per modality, on the features as they are."""

    def __init__(self, config: TransConfig) -> None:
        super().__init__(config)
        sizes = {"t": config.text, "a": config.audio, "v": config.visual}
        self.transformers = nn.ModuleDict(
            {
                key: SequenceEncoder(EncoderConfig(size, heads, config.feed_forward, config.layers))
                for (key, size), heads in zip(sizes.items(), config.heads, strict=True)
            }
        )
        self.affines.update({key: affine(size, size // 2, config.labels) for key, size in sizes.items()})

    def encode(self, key: str, x: Tensor, length: Tensor) -> Tensor:
        """[batch, length, features] -> [batch, features]."""
        x, length = trim(x, length, self.original_padding and key == "t")
        encoded: Tensor = self.transformers[key](x, inside(length, x))
        return encoded
