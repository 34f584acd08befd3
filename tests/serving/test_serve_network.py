"""The lanes of the network: side by side they give what one gives, and OpenVINO's share their weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mmx.runtime import Sample
from mmx.serving.server.network import Network
from mmx.serving.server.settings import Settings


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_lanes_side_by_side_give_what_one_gives(tiny_bundle: Path, backend: str) -> None:
    pytest.importorskip(backend)
    random = np.random.default_rng(0)
    samples = [
        Sample(random.integers(5, 1000, 3 + n), random.uniform(0, 255, (2, 3, 48, 48)).astype(np.float32),
               random.uniform(0, 9, (3, 128, 32)).astype(np.float32))
        for n in range(8)
    ]  # fmt: skip
    alone = Network(Settings(tiny_bundle, backend="onnxruntime", lanes=1, threads=1))
    (run,) = alone.runs()
    expected = [run([sample])["logits"][0] for sample in samples]
    alone.close()

    network = Network(Settings(tiny_bundle, backend=backend, lanes=2, threads=1))
    lanes = network.runs()
    assert len(lanes) == 2 and network.backend.name == backend
    with ThreadPoolExecutor(4) as pool:  # more at once than there are lanes
        found = list(pool.map(lambda n: lanes[n % 2]([samples[n % 8]])["logits"][0], range(32)))
    for number, logits in enumerate(found):
        assert logits == pytest.approx(expected[number % 8], abs=1e-4)
    network.close()
    network.close()
    with pytest.raises(RuntimeError, match="closed"):
        lanes[0](samples[:1])
