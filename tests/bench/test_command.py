"""The commands as a user gives them: rejections at once, and (slow) whole runs of small systems."""

import json
import os
import time
from importlib.metadata import version
from importlib.util import find_spec

import pytest

from mmx.benchmarks import cache
from mmx.benchmarks.cache import keyed_folder, weights_key
from mmx.benchmarks.contenders.prepare import CODE
from mmx.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imdb"], "imdb"),
        (["iemocap", "--systems", "resnet"], "resnet"),
        (["iemocap", "--systems", "lf-lstm", "--scope", "pipeline"], "features"),
        (["iemocap", "--bundle", "ours"], "--bundle ours"),
        (["iemocap", "--bundle", "ours=."], "--checkpoint ours=FILE"),
        (["iemocap", "--backends", "tflite"], "tflite"),
        (["iemocap", "--peers", "jax"], "jax"),
        (["iemocap", "--scenarios", "batchy"], "batchy"),
        (["iemocap", "--out", "/dev/null/x.html"], "cannot be written"),
        (["iemocap", "--threads", "many"], "many"),
        (["iemocap", "--threads", "0"], "--threads 0"),
        (["iemocap", "--checkpoint", "ours"], "--checkpoint ours"),
        (["iemocap", "--scope", "pipeline", "--scenarios", "single-stream,paper"], "pipeline"),
        (["iemocap", "--fail-if-slower", "much"], "much"),
        (["iemocap", "--fail-if-slower", "nan"], "nan"),
        (["iemocap", "--fail-if-slower", "5%"], "--compare old.json"),
        (["iemocap", "--preset", "huge"], "preset 'huge'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MMX_CACHE", str(tmp_path))
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_the_cache_changes_with_what_a_bundle_depends_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MMX_CACHE", str(tmp_path))
    key = weights_key("ours", "full", code=CODE)
    assert key == weights_key("ours", "full", code=CODE) != weights_key("v2em", "full", code=CODE)
    for package in ("onnxruntime", "numpy", "openvino"):
        monkeypatch.setattr(cache, "_version", lambda name, changed=package: "99" if name == changed else version(name))
        assert weights_key("ours", "full", code=CODE) != key
    monkeypatch.undo()


def test_the_cache_keeps_what_another_checkout_uses_and_drops_what_none_does(tmp_path, monkeypatch):
    monkeypatch.setenv("MMX_CACHE", str(tmp_path))
    mine, others, old, elsewhere = (
        keyed_folder(*each) for each in (("ours-full", "2" * 12), ("ours-full", "1" * 12), ("ours-full", "0" * 12),
                                         ("ours-full-x", "3" * 12))
    )  # fmt: skip
    assert mine.name == "ours-full-222222222222"
    for folder in (mine, others, old, elsewhere):
        folder.mkdir(parents=True)
    for folder in (mine, old, elsewhere):
        os.utime(folder, (0, 0))
    assert keyed_folder("ours-full", "2" * 12) == mine
    assert [each.exists() for each in (mine, others, old, elsewhere)] == [True, True, False, True]
    assert time.time() - mine.stat().st_mtime < cache.UNUSED_S / 2  # used just now


@pytest.mark.slow
def test_a_whole_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    base = ["bench", "iemocap", "--preset", "tiny", "--systems", "v2em,ours", "--peers", "eager,plain-onnx"]
    base += ["--backends", "onnxruntime", "--samples", "8", "--minutes", "0"]
    assert main([*base, "--out", "a.json", "--out", "a.html", "--out", "a.md"]) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert {row["status"] for row in report["rows"]} == {"ok"}
    assert {row["runner"] for row in report["rows"]} == {"eager", "plain-onnx", "onnxruntime"}
    assert max(row["error"] for row in report["rows"]) < 1e-4
    assert {each["key"] for each in report["whole_program"]} >= {"v2em/eager/fp32", "ours/onnxruntime/fp32"}
    lean, heavy = (
        next(p["peak_rss_mb"] for p in report["whole_program"] if p["key"] == key)
        for key in ("ours/onnxruntime/fp32", "v2em/eager/fp32")
    )
    assert lean < heavy  # a bundle's process never imports torch
    assert set(report["stages"]) == {"v2em/onnxruntime/fp32", "ours/onnxruntime/fp32"}
    assert report["offline"]
    assert report["server"]
    assert "synthetic" in " ".join(report["notes"])
    assert "seeded noise" in capsys.readouterr().out
    assert main([*base, "--scenarios", "single-stream", "--compare", "a.json", "--fail-if-slower", "90%"]) == 0
    assert "change" in capsys.readouterr().out


@pytest.mark.slow
def test_a_whole_run_from_video(tmp_path, monkeypatch):
    if find_spec("facenet_pytorch") is None:  # not imported: it wants torchvision, which the bench does without
        pytest.skip("facenet-pytorch is not installed")
    monkeypatch.setenv("MMX_CACHE", str(tmp_path / "cache"))
    command = ["bench", "iemocap", "--preset", "tiny", "--systems", "ours", "--scope", "pipeline"]
    command += ["--backends", "onnxruntime", "--samples", "3", "--out", str(tmp_path / "a.json")]
    assert main(command) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    rows = {(row["runner"], row["precision"]): row for row in report["rows"]}
    assert set(rows) == {("eager", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "fp32 track faces")}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert (
        rows["onnxruntime", "fp32"]["error"] < 1e-4
    )  # from the file to the logits, against facenet-pytorch and PyTorch
    assert len(report["stages"]) == 2
    for stages in report["stages"].values():
        assert set(stages) == {"decode", "faces", "mel", "text", "network"}
    exact = report["offline"]["ours/onnxruntime/fp32"]  # answered alike, or there would be no figure
    assert exact["best_batch"] == exact["samples"] == 3
    assert exact["vs_own"]["median"] > 1
