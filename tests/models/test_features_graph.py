"""The graphs of the systems on features: the published outputs and batch invariance, in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from mmx.export.graph import to_onnx
from mmx.export.specs import spec_for
from mmx.models.registry import get_system

SYSTEMS = [
    ("lf_rnn", "c1", "lf-lstm"),
    pytest.param("lf_transformer", "c1", "lf-trans", marks=pytest.mark.slow),
    pytest.param("mult_6emo", "u1", "mult", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("keys", "name", "system"), SYSTEMS)
def test_graph(keys, name, system, filled, case):
    module = get_system(system).build().eval()
    module.load_state_dict(filled(keys), strict=True)
    spec = spec_for(module)
    session = onnxruntime.InferenceSession(to_onnx(module, spec, system).SerializeToString())
    data = {k: v.numpy() for k, v in case(keys, name).items()}
    sizes = {"text": module.config.text, "audio": module.config.audio, "visual": module.config.visual}
    first = {part: data[f"in/{part.replace('visual', 'video')}"].reshape(-1, size) for part, size in sizes.items()}
    rng = np.random.default_rng(0)
    other = {
        part: rng.standard_normal((n, size)).astype(np.float32)
        for n, (part, size) in zip((70, 3, 200), sizes.items(), strict=True)
    }

    def run(*samples):
        inputs = {}
        for part, size in sizes.items():
            lengths = [len(s[part]) for s in samples]
            rows = np.full((len(samples), max(lengths), size), 9.0, np.float32)  # what the padding holds is not read
            for row, s in zip(rows, samples, strict=True):
                row[: len(s[part])] = s[part]
            inputs |= {part: rows, f"{part}_len": np.array(lengths)}
        return session.run(None, inputs)

    alone, together = run(first), run(other, first, other)
    for got, key in zip(alone, ("fused", "logits_t", "logits_v", "logits_a"), strict=False):
        expected = data[f"out/{key}"]
        assert np.abs(got - expected).max() / np.abs(expected).max() < 2e-5
    for got, expected in zip(together, alone, strict=True):
        assert np.abs(got[1] - expected[0]).max() / np.abs(expected).max() < 1e-5
        assert np.abs(got[0] - got[2]).max() / np.abs(got).max() < 1e-5
