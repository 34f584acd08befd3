"""The repository in a real Triton server, where there is one: see docs/triton.md, "What was run".

TRITONSERVER=/opt/tritonserver TRITON_PYTHON=/path/of/a/venv/bin python -m pytest tests/packaging/test_triton_server.py
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mmx.cli.main import main
from mmx.runtime import Predictor

ROOT = Path(os.environ.get("TRITONSERVER", "/nowhere"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "bin" / "tritonserver").exists(), reason="TRITONSERVER names no Triton server"),
]
# Where the server was built without its ONNX Runtime backend, a Python model of the same config runs the graph.
GRAPH_IN_PYTHON = """
import json
from pathlib import Path
import onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.inputs, self.outputs = ([spec["name"] for spec in config[kind]] for kind in ("input", "output"))
        self.session = onnxruntime.InferenceSession(Path(args["model_repository"]) / "1" / "model.onnx")

    def execute(self, requests):
        return [self.run(request) for request in requests]

    def run(self, request):
        feed = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        arrays = self.session.run(self.outputs, feed)
        return triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(self.outputs, arrays)])
"""


@pytest.fixture(scope="module")
def url(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("triton") / "models"
    assert main(["package", str(tiny_bundle), "--triton", str(models)]) == 0
    if not (ROOT / "backends" / "onnxruntime").exists():
        config = models / "mmx_graph" / "config.pbtxt"
        text = config.read_text().replace('"onnxruntime"', '"python"').replace("KIND_AUTO", "KIND_CPU")
        config.write_text("\n".join(line for line in text.splitlines() if "default_model_filename" not in line))
        (models / "mmx_graph" / "1" / "model.py").write_text(GRAPH_IN_PYTHON)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(ROOT / "bin" / "tritonserver"),
        f"--model-repository={models}",
        f"--backend-directory={ROOT / 'backends'}",
        *(f"--http-port={port}", "--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"),
    ]
    python = os.environ.get("TRITON_PYTHON", str(Path(sys.executable).parent))
    with (models.parent / "log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, "PATH": f"{python}:{os.environ['PATH']}"}, stdout=log, stderr=log
        )
        try:
            yield _when_ready(f"http://127.0.0.1:{port}/v2", server, models.parent / "log")
        finally:
            server.kill()
            server.wait()
    shutil.rmtree(models)


def _when_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"{url}/health/ready"):
                return url
        except OSError:
            assert server.poll() is None, log.read_text(errors="replace")[-3000:]
            time.sleep(1)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def ask(url: str, media: bytes, text: str | None = None, window: float | None = None) -> list[dict[str, Any]] | str:
    """One request over HTTP: the prediction lines, or the error."""
    values = {"VIDEO": media, "TEXT": None if text is None else text.encode()}
    raw = {name: struct.pack("<I", len(value)) + value for name, value in values.items() if value is not None}
    if window is not None:
        raw["WINDOW"] = struct.pack("<d", window)
    inputs = [
        {
            "name": name,
            "shape": [1, 1],
            "datatype": "FP64" if name == "WINDOW" else "BYTES",
            "parameters": {"binary_data_size": len(value)},
        }
        for name, value in raw.items()
    ]
    head = json.dumps({"inputs": inputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    request = urllib.request.Request(f"{url}/models/mmx/infer", head + b"".join(raw.values()), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return [json.loads(line) for line in json.load(response)["outputs"][0]["data"]]
    except urllib.error.HTTPError as e:
        return json.load(e)["error"]


def test_a_real_server_answers_as_mmx_predict_does(
    url: str, tiny_bundle: Path, clip: tuple[Path, str], tone: Path
) -> None:
    path, text = clip
    broken = ask(url, b"nothing of the kind")
    assert isinstance(broken, str) and "cannot be read as media" in broken
    with Predictor(tiny_bundle, backend="onnxruntime", threads=1) as predictor:
        for media, options in ((path, {"text": text}), (path, {"window": 2.0}), (tone, {})):
            answers = ask(url, media.read_bytes(), **options)
            for answer, expected in zip(answers, predictor.predict(media, **options), strict=True):
                assert isinstance(answer, dict)
                assert answer["logits"] == pytest.approx(expected.logits, rel=1e-5, abs=1e-6)
                assert answer["end"] == expected.end and answer["left_out"] == expected.left_out


def test_triton_batches_requests_of_different_sizes(url: str, tone: Path) -> None:
    media = tone.read_bytes()
    windows = [0.4 + 0.1 * number for number in range(24)]
    alone = [ask(url, media, None, window) for window in windows]
    with ThreadPoolExecutor(len(windows)) as pool:
        together = list(pool.map(lambda window: ask(url, media, None, window), windows))
    for one, other in zip(alone, together, strict=True):
        assert not isinstance(one, str) and not isinstance(other, str)
        assert [line["end"] for line in one] == [line["end"] for line in other]
        for a, b in zip(one, other, strict=True):
            assert a["logits"] == pytest.approx(b["logits"], rel=1e-5, abs=1e-6)
    with urllib.request.urlopen(f"{url}/models/mmx_answer/stats") as response:
        (stats,) = json.load(response)["model_stats"]
    assert stats["execution_count"] < stats["inference_count"]  # several requests in one execution
