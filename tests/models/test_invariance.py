"""A sample's logits depend on that sample alone, and the building blocks agree with torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.models.attention import MultiHeadAttention
from mmx.models.checkpoint import seeded_module
from mmx.models.config import EncoderConfig
from mmx.models.encoder import SequenceEncoder
from mmx.models.registry import SYSTEMS, get_system

MEDIA = [name for name, system in SYSTEMS.items() if system.inputs == "media"]
# Tokens, faces, pieces. Sample 2 has no face and sample 3 no sound.
SAMPLES = [(5, 3, 2), (9, 1, 4), (3, 0, 1), (2, 2, 0), (30, 5, 7)]


def sample(number: int) -> dict[str, torch.Tensor]:
    tokens, faces, pieces = SAMPLES[number]
    generator = torch.Generator().manual_seed(number)
    return {
        "ids": torch.randint(5, 30000, (tokens,), generator=generator),
        "faces": torch.rand(faces, 3, 48, 48, generator=generator) * 255,
        "pieces": torch.rand(pieces, 128, 32, generator=generator) ** 4 * 50,
    }


def pack(samples, junk: float = 0.0, slots: int = 0):
    """The graph's inputs. ``junk`` fills the one row that a tower gets when nobody has anything for it."""
    text = [s["ids"] for s in samples]
    mask = [torch.ones_like(ids) for ids in text]
    inputs = [nn.utils.rnn.pad_sequence(rows, batch_first=True) for rows in (text, mask)]
    for name, shape in (("faces", (1, 3, 48, 48)), ("pieces", (1, 128, 32))):
        counts = [len(s[name]) for s in samples]
        width = max(1, slots, *counts)
        index = torch.full((len(samples), width), -1)
        start = 0
        for row, count in enumerate(counts):
            index[row, :count] = torch.arange(start, start + count)
            start += count
        rows = torch.cat([s[name] for s in samples])
        inputs += [rows if len(rows) else torch.full(shape, junk), index]
    return inputs


@pytest.fixture(scope="module", params=MEDIA)
def system(request):
    return seeded_module(request.param, get_system(request.param).presets["tiny"], seed=3)


@torch.no_grad()
def test_batch_and_order_do_not_matter(system, relative_error):
    samples = [sample(i) for i in range(len(SAMPLES))]
    alone = [system(*pack([s])) for s in samples]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [3, 2], [1, 1, 1]):
        for row, logits in zip(
            order, zip(*system(*pack([samples[i] for i in order], slots=9)), strict=True), strict=True
        ):
            for got, expected in zip(logits, alone[row], strict=True):
                assert relative_error(got, expected[0]) < 1e-5


@torch.no_grad()
def test_frames_have_no_order_and_placeholders_no_effect(system, relative_error):
    whole = sample(4)
    expected = system(*pack([whole]))
    for name in ("faces", "pieces"):
        turned = {**whole, name: whole[name].flip(0)}
        for got, wanted in zip(system(*pack([turned])), expected, strict=True):
            assert relative_error(got, wanted) < 1e-5
    _, _, no_face, _ = system(*pack([sample(2)], junk=0.0))
    _, _, same, _ = system(*pack([sample(2)], junk=250.0))
    assert torch.equal(no_face, same)


@torch.no_grad()
def test_each_modality_reaches_its_own_logits(system):
    base, other = pack([sample(0)]), pack([sample(1)])
    reference = system(*base)
    for start, logits in ((0, 1), (2, 2), (4, 3)):
        changed = [*base[:start], *other[start : start + 2], *base[start + 2 :]]
        differs = [not torch.equal(a, b) for a, b in zip(system(*changed), reference, strict=True)]
        assert differs == [True, *(i == logits for i in (1, 2, 3))]


@torch.no_grad()
def test_fusion_is_the_weighted_sum(system, relative_error):
    fused, *parts = system(*pack([sample(0), sample(4)]))
    weights = system.weighted_fusion.weight[0]
    assert relative_error(sum(w * p for w, p in zip(weights, parts, strict=True)), fused) < 1e-6


@torch.no_grad()
def test_attention_is_torchs(relative_error):
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(24, 4), nn.MultiheadAttention(24, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    query, source = torch.randn(3, 5, 24), torch.randn(3, 7, 24)
    assert relative_error(ours(query, source), theirs(query, source, source)[0]) < 1e-6
    assert relative_error(ours(query, query), theirs(query, query, query)[0]) < 1e-6


@torch.no_grad()
def test_encoder_is_torchs(relative_error):
    torch.manual_seed(0)
    config = EncoderConfig(width=24, heads=4, feed_forward=48, layers=3)
    ours = SequenceEncoder(config).eval()
    layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    theirs.load_state_dict(ours.encoder.state_dict(), strict=True)
    x, real = torch.randn(2, 6, 24), torch.tensor([[True] * 6, [True, True, False, False, True, False]])
    with_cls = torch.cat([ours.cls_emb.weight[None].expand(2, 1, 24), x], 1)
    padding = torch.cat([torch.zeros(2, 1, dtype=torch.bool), ~real], 1)
    expected = theirs(with_cls, src_key_padding_mask=padding)[:, 0]
    assert relative_error(ours(x, real), expected) < 1e-5
