"""Published layouts as tensors. The filler is slow (seconds for V2EM), so each tensor is made once a session."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

Filled = Callable[[str], dict[str, Tensor]]
Cases = Callable[[str], dict[str, Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Results and times that do not depend on how busy the machine is."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def layout(reference: Path) -> Callable[[str], list[tuple[str, list[int], str]]]:
    """A published state dict as (name, shape, dtype), in order."""
    return lambda name: json.loads((reference / "keys" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def filled(reference: Path, layout: Callable[[str], list[tuple[str, list[int], str]]]) -> Filled:
    """A published state dict with the reference's weights (see tests/reference/README.md)."""
    spec = importlib.util.spec_from_file_location("reference_fill", reference / "fill.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: dict[tuple[str, ...], Tensor] = {}

    def tensor(name: str, shape: list[int], dtype: str) -> Tensor:
        if dtype != "float32" or name.startswith("mtcnn.") or name.endswith("_float_tensor"):
            return torch.zeros(shape, dtype=getattr(torch, dtype))
        if name.endswith(".version"):
            return torch.full(shape, 2.0)
        key = (name, *map(str, shape))
        if key not in made:
            made[key] = torch.from_numpy(module.fill(name, shape))
        return made[key]

    return lambda keys: {name: tensor(name, shape, dtype) for name, shape, dtype in layout(keys)}


@pytest.fixture(scope="session")
def case(reference: Path) -> Callable[[str, str], dict[str, Tensor]]:
    """One case of a reference file: ``in/faces``, ``out/fused``... as tensors."""

    def read(file: str, name: str) -> dict[str, Tensor]:
        with np.load(reference / f"{file}.npz") as arrays:
            prefix = f"{name}/"
            return {k.removeprefix(prefix): torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith(prefix)}

    return read


def worst(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """``worst``."""
    return worst
