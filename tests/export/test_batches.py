"""Systems on features on every CPU backend: a sample's answer is its own, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mmx.export import batches
from mmx.export.graph import to_onnx
from mmx.export.specs import ExportSpec, spec_for
from mmx.models.checkpoint import seeded_module
from mmx.models.registry import get_system
from mmx.runtime.backends import onnxruntime
from mmx.runtime.errors import ParityError
from mmx.runtime.splitting import batch_size, equally_long

Exported = tuple[Path, ExportSpec]


def exported(system: str, folder: Path) -> Exported:
    module = seeded_module(system, get_system(system).presets["tiny"])
    spec = spec_for(module)
    path = folder / f"{system}.onnx"
    onnx.save(to_onnx(module, spec, system), path)
    return path, spec


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("lf-lstm", tmp_path_factory.mktemp("lstm"))


@pytest.mark.parametrize("system", ["lf-trans", "mult"])
def test_company_does_not_matter(system: str, tmp_path: Path) -> None:
    worst = batches.measure(*exported(system, tmp_path))
    assert set(worst) == {"onnxruntime", "openvino"} and max(worst.values()) < 1e-5


def test_an_lstm_on_openvino_reads_no_padding(lstm: Exported) -> None:
    pytest.importorskip("openvino")
    from mmx.runtime.backends import openvino

    path, spec = lstm
    worst = batches.measure(path, spec)
    assert set(worst) == {"onnxruntime", "openvino"} and max(worst.values()) < 1e-5
    with onnxruntime.load(path) as reference, openvino.load(path, threads=1) as backend:
        for inputs in spec.cases.values():
            expected, found = reference.run(inputs), backend.run(inputs)
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5 * float(np.abs(values).max()))


def test_a_backend_whose_answers_depend_on_the_batch_is_rejected(
    lstm: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO as it is, without what mmx does about it."""
    openvino = pytest.importorskip("mmx.runtime.backends.openvino")
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino, "_has_recurrence", lambda *_: False)
    worst = batches.measure(*lstm)
    if worst["openvino"] <= batches.ALLOWED:
        pytest.skip("this OpenVINO takes the lengths into account")
    with pytest.raises(ParityError, match="on openvino the answers of the graph depend on the rest of the batch"):
        batches.require(worst, "the graph")


def test_a_number_that_is_none_is_no_agreement() -> None:
    with pytest.raises(ParityError):
        batches.require({"onnxruntime": float("nan")}, "the graph")
    batches.require({"onnxruntime": 1e-6}, "the graph")


def test_groups_of_equal_lengths_hold_every_sample_once_without_padding() -> None:
    random = np.random.default_rng(0)
    lengths: dict[str, Any] = {f"{name}_len": random.integers(0, 3, 40) for name in ("text", "audio")}
    inputs = {name: random.random((40, 3, 2), np.float32) for name in ("text", "audio")} | lengths
    seen: list[int] = []

    def groups() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        yield from equally_long(inputs)

    for places, group in groups():
        seen += places.tolist()
        assert batch_size(group) == len(places)
        for name in ("text", "audio"):
            (length,) = set(inputs[f"{name}_len"][places])
            assert (group[f"{name}_len"] == length).all() and group[name].shape[1] == max(1, length)
            assert (group[name] == inputs[name][places, : max(1, length)]).all()
    assert sorted(seen) == list(range(40))
