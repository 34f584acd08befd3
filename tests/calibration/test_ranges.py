"""Ranges: what each method chooses, measured on ragged samples, and a record that knows what it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmx.calibration.layers import find_layers
from mmx.calibration.ranges import BINS, LEVELS, METHODS, Ranges, limit, measure_limits, read_ranges
from mmx.runtime.errors import BadDataError, UsageError


def histogram(values: np.ndarray, largest: float) -> np.ndarray:
    return np.histogram(np.abs(values), BINS, (0, largest))[0].astype(np.float64)


def test_mse_is_the_best_of_all_limits() -> None:
    """Against rounding the values themselves at every candidate limit."""
    values = np.append(np.random.default_rng(0).laplace(0, 1, 20000), [40.0])
    largest = float(np.abs(values).max())
    chosen = limit(histogram(values, largest), largest, "mse")

    def error(top: float) -> float:
        step = top / LEVELS
        return float(np.mean((values - np.clip(np.rint(values / step), -LEVELS, LEVELS) * step) ** 2))

    best = min(error(top) for top in np.linspace(largest / 16, largest, 400))
    assert error(chosen) <= 1.02 * best
    assert chosen < largest and error(chosen) < error(largest)


def test_percentile_leaves_one_in_ten_thousand_out() -> None:
    values = np.random.default_rng(0).normal(0, 1, 200000)
    largest = float(np.abs(values).max())
    chosen = limit(histogram(values, largest), largest, "percentile")
    assert chosen == pytest.approx(np.percentile(np.abs(values), 99.99), abs=2 * largest / BINS)


def test_entropy_cuts_outliers_and_keeps_what_has_none() -> None:
    random = np.random.default_rng(0)
    bulk = random.normal(0, 1, 50000)
    with_outliers = np.append(bulk, [60.0, -60.0])
    assert limit(histogram(with_outliers, 60.0), 60.0, "entropy") < 15
    even = random.uniform(-1, 1, 50000)
    assert limit(histogram(even, 1.0), 1.0, "entropy") > 0.9


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_value_that_never_moves(method: str) -> None:
    assert limit(np.zeros(BINS), 0.0, method) == 0.0


def graph() -> onnx.ModelProto:
    """y = x @ w for ragged x [rows, 8]."""
    weight = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["r"], "relu"), helper.make_node("MatMul", ["r", "w"], ["y"], "matmul")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 16])],
            [numpy_helper.from_array(weight, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def ragged() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"x": random.normal(size=(rows, 8)).astype(np.float32)} for rows in (1, 7, 3, 12)]


def test_every_row_of_every_sample_counts_once() -> None:
    model, samples = graph(), ragged()
    everything = np.maximum(np.concatenate([sample["x"] for sample in samples]), 0)
    largest, limits, count = measure_limits(model, find_layers(model), lambda: samples, "percentile")
    assert count == 4 and list(largest) == ["r"]
    assert largest["r"] == everything.max()
    top = float(everything.max())
    assert limits["r"] == pytest.approx(limit(histogram(everything, top), top, "percentile"))


def test_what_cannot_be_measured() -> None:
    model = graph()
    with pytest.raises(UsageError, match="no method"):
        measure_limits(model, find_layers(model), ragged, "guess")
    with pytest.raises(UsageError, match="no samples"):
        measure_limits(model, find_layers(model), list, "mse")
    with pytest.raises(BadDataError, match="not finite"):
        measure_limits(model, find_layers(model), lambda: [{"x": np.full((1, 8), np.inf, np.float32)}], "mse")


def test_a_record_is_what_was_written_or_bad_data(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    record = Ranges(1, "w" * 64, "d" * 64, "mse", 4, {"r": 2.0}, {"r": 1.5})
    record.write(path)
    assert json.loads(path.read_text())["limits"] == {"r": 1.5}
    assert read_ranges(path) == record
    for broken in (
        "[",
        "[]",
        "{}",
        "[" * 100_000,
        path.read_text().replace("1.5", "-1.5"),
        path.read_text().replace('"r"', "3"),
    ):
        path.write_text(broken)
        with pytest.raises(BadDataError):
            read_ranges(path)
