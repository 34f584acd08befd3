"""SimAM against equation (2) written out neuron by neuron, and in half precision, on 1x1 maps and in ONNX."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch

from mmx.models.simam import SimAM

VARIANTS = pytest.mark.parametrize("variant", ["reference", "paper"])


def by_hand(x: np.ndarray, variant: str) -> np.ndarray:
    """Equations (2) and (3) in float64 numpy loops; the reference divides the variance once, the paper twice."""
    out = np.empty_like(x)
    n = x.shape[2] * x.shape[3] - 1
    for b, c in np.ndindex(*x.shape[:2]):
        v = x[b, c]
        squared = (v - v.mean()) ** 2
        variance = squared.sum() / n
        y = squared / (4 * ((variance / n if variant == "paper" else variance) + 1e-4)) + 0.5
        out[b, c] = v / (1 + np.exp(-y))
    return out


@VARIANTS
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_equation(variant, scale):
    x = scale * np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    np.testing.assert_allclose(SimAM(variant)(torch.from_numpy(x)).numpy(), by_hand(x, variant), rtol=1e-12)


@VARIANTS
def test_one_pixel(variant):
    """A 1x1 map stands out from nothing: y = 0.5, whatever its value."""
    x = torch.tensor([[[[3.0]], [[-2.0]], [[0.0]]]])
    torch.testing.assert_close(SimAM(variant)(x), x * torch.sigmoid(torch.tensor(0.5)))


@VARIANTS
def test_flat_channel(variant):
    x = torch.full((1, 2, 4, 4), -7.0)
    torch.testing.assert_close(SimAM(variant)(x), x * torch.sigmoid(torch.tensor(0.5)))


@VARIANTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(variant, dtype):
    """Values whose squares leave float16's range: right to half a unit in the last place, and of the input's type."""
    x = (2000 * torch.randn(1, 4, 24, 24)).to(dtype)
    got, expected = SimAM(variant)(x), SimAM(variant)(x.double())
    assert got.dtype == dtype
    assert torch.equal(got, expected.to(dtype)) or bool(
        ((got.double() - expected).abs() <= torch.finfo(dtype).eps * expected.abs()).all()
    )


@VARIANTS
def test_onnx(variant):
    """Exports through dynamo with a dynamic batch, and ONNX Runtime agrees at another batch."""
    program = torch.onnx.export(
        SimAM(variant).eval(),
        (torch.randn(2, 3, 6, 6),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("faces")},),
        verbose=False,
    )
    buffer = io.BytesIO()
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    x = torch.randn(5, 3, 6, 6)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got, SimAM(variant)(x).numpy(), rtol=1e-5, atol=1e-6)


def test_unknown_variant():
    with pytest.raises(ValueError, match="none of reference, paper"):
        SimAM("other")
