"""The public baselines, loaded from files as their trainers write them, give the published outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.models.checkpoint import load_checkpoint
from mmx.models.config import FocalNetConfig
from mmx.models.focalnet import FocalNet
from mmx.models.registry import FACE_DETECTOR, SYSTEMS

TOLERANCE = 2e-5
MEAN, STD = torch.tensor([159.0, 111.0, 102.0]), torch.tensor([37.0, 33.0, 32.0])


def deployed(filled, layout):
    """V2EM's deployed file: the training weights with each block's branches summed, in float64, as 3x3 kernels."""
    training = filled("v2em_train")
    state = {name: training[name] for name, _, _ in layout("v2em_deploy") if name in training}
    for name, shape, _ in layout("v2em_deploy"):
        if not name.endswith("rbr_reparam.weight"):
            continue
        block = name.removesuffix("rbr_reparam.weight")
        kernel, bias = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[0], dtype=torch.float64)
        for conv, norm in (("rbr_dense.conv", "rbr_dense.bn"), ("rbr_1x1.conv", "rbr_1x1.bn"), ("", "rbr_identity")):
            if f"{block}{norm}.weight" not in training:
                continue
            gamma, beta, mean, var = (
                training[f"{block}{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
            )
            own = training[f"{block}{conv}.weight"].double() if conv else torch.eye(shape[0], dtype=torch.float64)
            own = (
                own if own.shape[-1] == 3 and own.ndim == 4 else nn.functional.pad(own.view(*shape[:2], 1, 1), [1] * 4)
            )
            scale = gamma / (var + 1e-5).sqrt()
            kernel += own * scale.view(-1, 1, 1, 1)
            bias += beta - mean * scale
        state[name], state[f"{block}rbr_reparam.bias"] = kernel.float(), bias.float()
    return state


@pytest.mark.parametrize(
    ("keys", "file", "outputs", "system", "form"),
    [
        ("v2em_train", "v2em", "out", "v2em", "training"),
        ("v2em_deploy", "v2em", "out_deploy", "v2em", "deployed"),
        ("mme2e", "mme2e", "out", "fe2e", "training"),
    ],
)
def test_published_file(keys, file, outputs, system, form, filled, layout, case, relative_error, tmp_path):
    path = tmp_path / f"{keys}_iemocap.pt"
    torch.save(deployed(filled, layout) if form == "deployed" else filled(keys), path)
    checkpoint = load_checkpoint(path)
    path.unlink()
    assert (checkpoint.system, checkpoint.form, checkpoint.dataset) == (system, form, "iemocap")
    assert any("50 mtcnn.* tensors" in note for note in checkpoint.notes)
    assert any("position_ids" in note for note in checkpoint.notes)

    module, data = checkpoint.module, case(file, "c1")
    expected = {k.removeprefix(f"{outputs}/"): v for k, v in data.items() if k.startswith(f"{outputs}/")}
    faces = data["in/faces"] * STD.view(3, 1, 1) + MEAN.view(3, 1, 1)
    pieces = data["in/specs"][:, 0]
    seen: dict[str, torch.Tensor] = {}
    for name, part in (
        ("text_cls", module.T),
        ("v_trunk_head", module.V),
        ("a_trunk_head", module.A),
        ("v_feat", module.v_flatten),
        ("a_feat", module.a_flatten),
        ("v_cls", module.v_transformer),
        ("a_cls", module.a_transformer),
    ):
        part.register_forward_hook(lambda _module, _inputs, output, name=name: seen.update({name: output}))
    indices = [torch.arange(len(rows))[None] for rows in (faces, pieces)]
    with torch.no_grad():
        logits = module(data["in/input_ids"], data["in/attention_mask"], faces, indices[0], pieces, indices[1])
    seen |= dict(zip(("fused", "logits_t", "logits_v", "logits_a"), logits, strict=True))
    got = {name: value.flatten(1)[:, :32] if "trunk" in name else value for name, value in seen.items()}
    errors = {name: relative_error(value, expected[name]) for name, value in got.items()}
    assert max(errors.values()) < TOLERANCE, errors


def test_focalnet(filled, case, relative_error):
    trunk = FocalNet(FocalNetConfig()).eval()
    trunk.load_state_dict(filled("focalnet_small_srf_in4"), strict=True)
    data = case("focalnet_small_srf", "in4_32x32")
    with torch.no_grad():
        features = trunk(data["in/x"])
        head = trunk.head(features)[:, :64]
    assert relative_error(features, data["out/features"]) < TOLERANCE
    assert relative_error(head, data["out/logits64"]) < TOLERANCE


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", [name for name, s in SYSTEMS.items() if s.inputs == "media"])
def test_parameter_counts(name):
    system = SYSTEMS[name]
    with torch.device("meta"):
        module = system.build()
    got = {"text": count(module.T), "visual": count(module.V), "audio": count(module.A), "total": count(module)}
    assert got == {part: system.parameters[part] for part in got}


def test_the_published_numbers(layout):
    detector = sum(torch.Size(shape).numel() for name, shape, _ in layout("v2em_train") if name.startswith("mtcnn."))
    assert detector == FACE_DETECTOR
    assert SYSTEMS["v2em"].parameters["published"] == 121_900_775
    assert SYSTEMS["fe2e"].parameters["published"] == 37_278_335
    assert SYSTEMS["ours"].parameters["audio"] == 49_892_752
    assert SYSTEMS["ours"].parameters["visual"] == 733_920
    with torch.device("meta"):
        folded = SYSTEMS["v2em"].build(SYSTEMS["v2em"].presets["deployed"])
    assert count(folded.V) == 1_628_032
    assert count(folded) + FACE_DETECTOR == 121_717_223
