"""RepVGG: three branches in one convolution, against the unfolded block and the published folded outputs."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from mmx.export.folding.fold import fold
from mmx.models.config import V2EM_VISUAL
from mmx.models.repvgg import RepVGGBlock
from mmx.models.vgg import conv_trunk


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("widths", [(16, 16), (16, 24)])
def test_exact(widths, dtype, randomise, assert_same):
    block = randomise(RepVGGBlock(*widths), dtype)
    folded, (record,) = fold(block)
    assert record.applied and str(3 if widths[0] == widths[1] else 2) in record.reason
    assert list(folded.state_dict()) == ["rbr_reparam.weight", "rbr_reparam.bias"]
    assert_same(folded, block, torch.randn(2, 16, 9, 7, dtype=dtype))


def test_deployed_block_is_left():
    block = RepVGGBlock(8, 8, deploy=True)
    _, (record,) = fold(block)
    assert not record.applied and "already" in record.reason


def test_block_without_statistics_is_left():
    block = RepVGGBlock(8, 8)
    block.rbr_identity = torch.nn.BatchNorm2d(8, track_running_stats=False)
    folded, records = fold(block)
    assert not folded.deployed and "no running statistics" in records[0].reason


def test_published_v2em_trunk(reference):
    """The published training weights, folded, give the features that the original's own folded form gave."""
    spec = importlib.util.spec_from_file_location("fill", reference / "fill.py")
    filler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(filler)
    layout = [row for row in json.loads((reference / "keys/v2em_train.json").read_text()) if row[0].startswith("V.")]
    state = {
        name[2:]: torch.zeros(shape, dtype=torch.int64)
        if dtype == "int64"
        else torch.from_numpy(filler.fill(name, shape))
        for name, shape, dtype in layout
    }
    trunk = conv_trunk(3, V2EM_VISUAL)
    trunk.load_state_dict(state, strict=True)
    assert list(trunk.state_dict()) == list(state)
    folded, _ = fold(trunk)
    data = np.load(reference / "v2em.npz")
    with torch.no_grad():
        features = folded(torch.from_numpy(data["c1/in/faces"])).flatten(1).numpy()
    for got, name in ((features[:, :32], "v_trunk_head"), (features.mean(1), "v_trunk_mean")):
        expected = data[f"c1/out_deploy/{name}"]
        assert np.abs(got - expected).max() / np.abs(expected).max() < 2e-5
