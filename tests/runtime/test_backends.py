"""Backends against PyTorch on the same samples, whatever the batch; and what is asked for is had or rejected."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mmx.models.checkpoint import load_checkpoint
from mmx.runtime.backends import Backend, open_backend
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.extras import install_command
from mmx.runtime.packing import INPUTS, pack
from mmx.runtime.types import Sample

OUTPUTS = ("logits", "logits_text", "logits_visual", "logits_audio")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module", params=[("onnxruntime", None), ("onnxruntime", 1), ("openvino", None)], ids=str)
def backend(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Backend]:
    name, utterances = request.param
    with open_backend(bundle, name, threads=1, utterances=utterances) as opened:
        yield opened


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Seven utterances of very different sizes: no text, no face, no sound, nothing at all, one of each, many."""
    random = np.random.default_rng(3)
    sizes = [(5, 3, 4), (None, 2, 6), (40, 0, 3), (9, 5, 0), (None, 0, 0), (3, 1, 1), (12, 9, 17)]
    return [
        Sample(
            None if tokens is None else np.r_[2, random.integers(4, 1999, tokens), 3],
            (random.random((faces, 3, 48, 48)) * 255).astype(np.float32),
            (random.random((pieces, 128, 32)) ** 4 * 50).astype(np.float32),
        )
        for tokens, faces, pieces in sizes
    ]


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Largest difference over the outputs, relative to the output's largest value."""
    return max(float(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max()) for name in OUTPUTS)


def test_pytorch_gives_the_same_answers(backend: Backend, samples: list[Sample], tiny_checkpoint: Path) -> None:
    inputs = pack(samples).inputs
    with torch.inference_mode():
        expected = load_checkpoint(tiny_checkpoint).module(*(torch.from_numpy(inputs[name]) for name in INPUTS))
    named = {name: tensor.numpy() for name, tensor in zip(OUTPUTS, expected, strict=True)}
    assert distance(backend.run(inputs), named) < 2e-5


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_batch_and_company_do_not_matter(backend: Backend, samples: list[Sample], size: int) -> None:
    """Shuffled, in batches of ``size``: each sample's logits are those it has alone."""
    alone = [backend.run(pack([sample]).inputs) for sample in samples]
    order = np.random.default_rng(size).permutation(len(samples))
    for start in range(0, len(order), size):
        members = order[start : start + size]
        together = backend.run(pack([samples[i] for i in members]).inputs)
        for row, member in enumerate(members):
            assert (
                distance({k: v[row] for k, v in together.items()}, {k: v[0] for k, v in alone[member].items()}) < 1e-5
            )


def test_the_order_of_faces_and_pieces_does_not_matter(backend: Backend, samples: list[Sample]) -> None:
    """The encoders have no positional encoding, so a shuffled utterance is the same utterance."""
    last = samples[-1]
    turned = Sample(last.token_ids, last.faces[::-1].copy(), last.pieces[::-1].copy())
    assert distance(backend.run(pack([turned]).inputs), backend.run(pack([last]).inputs)) < 1e-5


def test_outputs_belong_to_the_caller(backend: Backend, samples: list[Sample]) -> None:
    first = backend.run(pack(samples[:1]).inputs)
    kept = {name: values.copy() for name, values in first.items()}
    backend.run(pack(samples[6:7]).inputs)
    assert all((first[name] == kept[name]).all() for name in OUTPUTS)


def test_threads_may_call_at_once(backend: Backend, samples: list[Sample]) -> None:
    expected = [backend.run(pack([sample]).inputs)["logits"] for sample in samples]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        for _ in range(5):
            found[number] = backend.run(pack([samples[number]]).inputs)["logits"]

    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(samples))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number, logits in enumerate(expected):
        np.testing.assert_allclose(found[number], logits, rtol=1e-5, atol=1e-6)


def test_auto_says_what_it_took_and_why(bundle: Bundle) -> None:
    with open_backend(bundle) as backend:
        assert backend.name in ("openvino", "onnxruntime")
        assert backend.why.startswith("auto: measured ") and "; no tensorrt, " in backend.why
    with open_backend(bundle, "onnxruntime") as backend:
        assert backend.why == "asked for"


def test_auto_takes_the_only_one_there_is(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with open_backend(bundle, threads=3) as backend:
        assert backend.name == "onnxruntime" and backend.why.startswith("auto: onnxruntime works here; ")
        assert "no openvino, OpenVINO is not installed" in backend.why


def test_bf16_is_computed_in_bf16_or_rejected(bundle: Bundle, samples: list[Sample]) -> None:
    import openvino

    inputs = pack(samples).inputs
    with pytest.raises(EnvironmentMissing, match="bf16") as error:
        open_backend(bundle, "onnxruntime", "bf16")
    assert install_command("openvino") in error.value.hint
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EnvironmentMissing, match="bf16"):
            open_backend(bundle, "openvino", "bf16")
        return
    with open_backend(bundle, "auto", "bf16") as half, open_backend(bundle) as full:
        assert half.name == "openvino"
        error = distance(half.run(inputs), full.run(inputs))
    assert 1e-5 < error < 0.5  # coarser than FP32, or it was not bf16; untrained towers magnify its rounding


def test_what_cannot_be_had_is_rejected(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no backend 'tpu'"):
        open_backend(bundle, "tpu")
    with pytest.raises(UsageError, match="threads is 0"):
        open_backend(bundle, threads=0)
    with pytest.raises(UsageError, match="no int4 graph"):
        open_backend(bundle, precision="int4")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EnvironmentMissing) as missing:
        open_backend(bundle, "openvino")
    assert missing.value.hint == install_command("openvino")


def test_a_provider_that_is_not_given_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime falls back without a word; the backend does not."""
    from mmx.runtime.backends import onnxruntime

    monkeypatch.setattr(onnxruntime, "PROVIDER", "CUDAExecutionProvider")
    with pytest.warns(UserWarning), pytest.raises(EnvironmentMissing, match="CUDAExecutionProvider"):
        open_backend(bundle, "onnxruntime")


def test_closed_is_closed(bundle: Bundle, samples: list[Sample]) -> None:
    for name in ("onnxruntime", "openvino"):
        backend = open_backend(bundle, name)
        backend.close()
        backend.close()
        with pytest.raises(RuntimeError, match="closed"):
            backend.run(pack(samples[:1]).inputs)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_graph_that_is_no_graph(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    """Its hash is right, so the bundle opens; the engine must still reject it in one line."""
    broken = Path(shutil.copytree(tiny_bundle, tmp_path / "broken.mmx"))
    garbage = b"\x08\x08" + b"\x3a\x10not a graph" * 9
    (broken / "model.onnx").write_bytes(garbage)
    edit(broken, lambda manifest: manifest["files"].update({"model.onnx": hashlib.sha256(garbage).hexdigest()}))
    with pytest.raises(BadDataError, match=r"model\.onnx"):
        open_backend(Bundle.open(broken), name)


def test_a_manifest_that_names_other_inputs(tiny_bundle: Path, tmp_path: Path) -> None:
    lying = Path(shutil.copytree(tiny_bundle, tmp_path / "lying.mmx"))
    edit(lying, lambda manifest: manifest["graphs"]["fp32"]["inputs"][0].update(name="tokens"))
    with pytest.raises(BadDataError, match=r"model\.onnx: its inputs .* not those of the manifest"):
        open_backend(Bundle.open(lying))


def edit(bundle: Path, change) -> None:
    """Change the manifest of a copied bundle."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
