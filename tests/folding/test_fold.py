"""All folds together, on the trunks of every system and on whole systems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.export.folding import fold as folding
from mmx.export.folding.fold import fold
from mmx.models import folding as model_folding
from mmx.models.counting import utterance
from mmx.models.registry import SYSTEMS, get_system
from mmx.models.residual_free import AUTO, PlainBlock, ResidualBlock
from mmx.runtime.errors import UsageError

MEDIA = sorted(name for name, system in SYSTEMS.items() if system.inputs == "media")
TRUNKS = [("ours", "full"), ("ours", "reserved"), ("v2em", "full"), ("fe2e", "full")]


def trunk(name, preset="full"):
    system = get_system(name)
    with torch.device("meta"):
        module = system.build(system.config(preset=preset if preset in system.presets else "full"))
    return module.V.to_empty(device="cpu")


def error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


def root_mean_square_error(got, expected):
    return float((got - expected).norm() / expected.norm())


@pytest.fixture
def visual_trunk(randomise):
    """A system's visual trunk with weights in which every channel of every layer counts, and two faces."""

    def make(name, preset):
        module = randomise(trunk(name, preset))
        for layer in module.modules():
            if isinstance(layer, nn.PReLU):
                layer.weight.data.uniform_(-0.5, 1.5)
        return module, torch.randn(2, 3, 48, 48)

    return make


@torch.no_grad()
def errors(module, residual, faces):
    """Of the folded trunk against the unfolded one in float64: in float32, and in float64; and the folded one."""
    folded, _ = fold(module, residual)
    exact = module.double()(faces.double())
    wide, _ = fold(module, residual)
    rounded = root_mean_square_error(folded(faces).double(), exact)
    return rounded, error(wide(faces.double()), exact), folded


@pytest.mark.parametrize("residual", ["merge", "keep"])
@pytest.mark.parametrize(("name", "preset"), TRUNKS)
def test_whole_visual_trunk(name, preset, residual, visual_trunk, rounding):
    """Exact in float64; in float32 off by no more than rounding its sums explains, on whatever CPU."""
    module, faces = visual_trunk(name, preset)
    rounded, exact, folded = errors(module, residual, faces)
    assert exact < 1e-12
    assert rounded < rounding(folded)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())


FAULTS = {
    "no epsilon": lambda bn, scale, shift: (scale * (1 + bn.eps / bn.running_var.double()).sqrt(), shift),
    "no mean": lambda bn, scale, shift: (scale, shift + bn.running_mean.double() * scale),
    "sign": lambda bn, scale, shift: (-scale, shift),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("name", "preset"), TRUNKS)
def test_a_wrong_fold_in_one_channel_is_found(name, preset, fault, visual_trunk, rounding, monkeypatch):
    """The limits of the test above are no wider than that: one channel of the first BatchNorm is folded wrongly.

    A forgotten epsilon is smaller than float32's rounding of the whole trunk. float64 sees it.
    """
    right, seen = model_folding.scale_and_shift, []

    def wrong(bn):
        scale, shift = right(bn)
        seen.append(bn.running_mean.double())
        if torch.equal(seen[-1], seen[0]):  # each fold works on a copy
            for faulty, tensor in zip(FAULTS[fault](bn, scale, shift), (scale, shift), strict=True):
                tensor[1] = faulty[1]
        return scale, shift

    monkeypatch.setattr(model_folding, "scale_and_shift", wrong)
    module, faces = visual_trunk(name, preset)
    rounded, exact, folded = errors(module, "keep", faces)
    assert seen and exact > 1e-8
    if fault != "no epsilon":
        assert rounded > 10 * rounding(folded)


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("residual", ["merge", "keep"])
@torch.no_grad()
def test_whole_system(name, residual, randomise):
    """The four outputs stay; the system that went in is left as it was."""
    system = get_system(name)
    module = randomise(system.build(system.config(preset="tiny")), torch.float64)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    folded, _ = fold(module.train(), residual)
    assert module.training and not folded.training
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())
    inputs = {key: t.double() if t.is_floating_point() else t for key, t in utterance(7, 3, 2).items()}
    inputs["faces"] = inputs["faces"].uniform_(0, 255)
    inputs["pieces"] = inputs["pieces"].uniform_(0, 4)
    for got, expected in zip(folded(**inputs), module.eval()(**inputs), strict=True):
        assert error(got, expected) < 1e-12


def test_dropped_heads_are_exactly_what_no_output_depends_on():
    """Autograd's own account of what the outputs use, against what the fold drops."""
    for name in MEDIA:
        system = get_system(name)
        module = system.build(system.config(preset="tiny")).eval()
        inputs = utterance(7, 3, 2)
        total = sum(output.sum() for output in module(**inputs))
        names, parameters = zip(*module.named_parameters(), strict=True)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        unused = {key for key, gradient in zip(names, gradients, strict=True) if gradient is None}
        folded, records = fold(module, "keep")
        dropped = {record.module for record in records if record.fold == "unused_head" and record.applied}
        assert unused == {key for key in names if key.rpartition(".")[0] in dropped}
        assert unused and not unused & set(dict(folded.named_parameters()))


def test_report_says_what_was_not_folded():
    """Each BatchNorm, block, LayerNorm, SimAM and dropped head of a system appears once."""
    system = get_system("ours")
    _, records = fold(system.build(system.config(preset="tiny")), "merge")
    by_fold: dict[str, list] = {}
    for record in records:
        by_fold.setdefault(record.fold, []).append(record)
    assert [r.module for r in by_fold["residual_free"]] == ["V.4.block", "V.5.block", "V.6.block", "V.8.block"]
    assert all(
        r.applied and "ReLU between, as its input cannot be negative" in r.reason for r in by_fold["residual_free"]
    )
    assert [(r.module, r.applied) for r in by_fold["conv_bn"]] == [("V.1", True)]
    assert [r.module for r in by_fold["unused_head"]] == ["T.albert.pooler", "A.0.head"]
    assert [(r.module, r.applied) for r in by_fold["simam"]] == [("V (4 SimAM)", True)]
    assert [r.module for r in by_fold["tokens"]] == ["A (1 FocalNet)"]
    assert [r.module for r in by_fold["first_token"]] == [
        "T (1 AlbertEncoder)",
        "v_transformer (1 Layers)",
        "a_transformer (1 Layers)",
    ]
    assert all(not r.applied and r.reason for r in by_fold["layer_norm"])


def test_trained_reserved_block_is_merged_even_if_keep_is_asked_for(randomise):
    system = get_system("ours")
    module = randomise(system.build(system.config(preset="tiny-reserved")))
    folded, records = fold(module, "keep")
    assert not any(isinstance(m, ResidualBlock) for m in folded.modules())
    assert any("no residual form" in record.reason for record in records)


def test_auto_is_what_the_recorded_measurement_says():
    """`auto` is the form that won in studies/results/residual.json, and the record says that it was chosen so."""
    results = Path(folding.__file__).parents[2] / "studies/results/residual.json"
    measured = json.loads(results.read_text())
    slower = measured["engines"]["onnxruntime"]["merge_over_keep"]["median"]
    assert ("keep" if slower > 1 else "merge") == AUTO
    folded, records = fold(nn.Sequential(nn.ReLU(), ResidualBlock(4, 4)))
    assert isinstance(folded[1], PlainBlock if AUTO == "merge" else ResidualBlock)
    assert records[0].reason.count("auto") == 1


def test_unknown_residual():
    with pytest.raises(UsageError, match="--residual 'fuse'"):
        fold(nn.Identity(), "fuse")
