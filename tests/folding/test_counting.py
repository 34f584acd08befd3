"""Parameters as the paper's Table 5 prints them, and multiply-accumulates against the arithmetic written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.export.folding.fold import fold
from mmx.models.counting import Count, count, utterance
from mmx.models.registry import get_system

TABLE_5 = {"v2em": ("1.81M", "67.25M", "11.68M"), "ours": ("0.73M", "49.89M", "11.68M")}


def on_meta(name):
    with torch.device("meta"):
        return get_system(name).build().eval()


@pytest.mark.parametrize("name", sorted(TABLE_5))
def test_table_5(name):
    module = on_meta(name)
    counts = count(module)
    printed = tuple(f"{counts[part].parameters / 1e6:.2f}M" for part in ("visual", "audio", "text"))
    assert printed == TABLE_5[name]
    assert sum(c.parameters for c in counts.values()) == sum(p.numel() for p in module.parameters())


def test_audio_macs_at_the_published_size():
    """11 pieces: about 1.9 GMAC in FocalNet-S, 61 in V2EM's NesT."""
    example = utterance(pieces=11)
    assert count(on_meta("ours"), example)["audio"].macs == pytest.approx(1.9e9, rel=0.03)
    assert count(on_meta("v2em"), example)["audio"].macs == pytest.approx(61e9, rel=0.01)


def conv_macs(width, out, kernel, side):
    return width * out * kernel**2 * side**2


def test_visual_macs_written_out():
    """Stem at 48x48, then the plan at 24, 12 and 6; merging adds the input's channels to both convolutions."""
    stem = conv_macs(3, 48, 5, 48)
    plan = [(48, 48, 24), (48, 48, 24), (48, 96, 24), (96, 192, 12)]
    residual = stem + sum(
        conv_macs(i, o, 3, s) + conv_macs(o, o, 3, s) + (conv_macs(i, o, 1, s) if i != o else 0) for i, o, s in plan
    )
    merged = stem + sum(conv_macs(i, i + o, 3, s) + conv_macs(i + o, o, 3, s) for i, o, s in plan)
    module, example = on_meta("ours"), utterance(faces=1)
    assert count(module, example)["visual"].macs == residual
    assert count(fold(module, "keep")[0], example)["visual"].macs == residual
    assert count(fold(module, "merge")[0], example)["visual"].macs == merged


def test_text_macs_grow_with_tokens():
    """12 layers of four 768x768 and two 768x3072 products a token, and the two attention products."""
    tokens = 16
    per_layer = tokens * (4 * 768**2 + 2 * 768 * 3072) + 2 * tokens * tokens * 768
    assert count(on_meta("ours"))["text"].macs == 12 * per_layer + tokens * 128 * 768


def test_any_module_and_its_own_parts():
    """A module tree that is no system counts by child; nothing of it is computed or moved."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.second = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)

        def forward(self, x):
            return self.second(self.act(self.first(x)))

    module = Pair()
    assert count(module, {"x": torch.zeros(3, 4)}) == {"first": Count(40, 96), "second": Count(18, 48)}
    assert all(p.device.type == "cpu" for p in module.parameters())
