"""What ``mmx build-engine`` is asked for: targets, flavours, profiles, the bundle in this folder; and its errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from variants import engine_in

from mmx.cli.build_engine import bundle_here
from mmx.cli.main import main
from mmx.export.engine import build, targets
from mmx.export.engine.build import Built, choose_flavour
from mmx.export.engine.profiles import profiles_for, read_profiles
from mmx.export.engine.targets import Target, parse_target
from mmx.runtime.backends import open_backend
from mmx.runtime.bundle import Bundle
from mmx.runtime.device.probe import Gpu
from mmx.runtime.device.trt import FULL, RTX
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError


def _this_machine_has(monkeypatch: pytest.MonkeyPatch, capability: str | None, *flavours: str) -> None:
    gpu = capability and Gpu("a GPU", capability, 2**34, "13.0")
    for module in (targets, build):
        monkeypatch.setattr(module, "find_gpu", lambda: gpu)
    installed = property(lambda self: "1.7" if self.name in flavours else None)
    monkeypatch.setattr(type(RTX), "installed_version", installed)


@pytest.mark.parametrize(
    ("text", "capability"),
    [("rtx4090", "8.9"), ("RTX 3090", "8.6"), ("rtx5090", "12.0"), ("sm89", "8.9"), ("8.6", "8.6"), ("sm120", "12.0")],
)
def test_targets_by_any_of_their_names(text: str, capability: str) -> None:
    assert parse_target(text).capability == capability


def test_portable_native_and_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_target("portable").is_portable
    _this_machine_has(monkeypatch, None)
    assert parse_target(None) == Target("rtx4090", "8.9")
    with pytest.raises(EnvironmentMissing, match="--target native needs an NVIDIA GPU"):
        parse_target("native")
    _this_machine_has(monkeypatch, "8.6")
    assert parse_target(None) == parse_target("native") == Target("native", "8.6")
    with pytest.raises(UsageError, match="'gtx9'"):
        parse_target("gtx9")


@pytest.mark.parametrize(
    ("gpu", "installed", "target", "chosen"),
    [
        (None, ["tensorrt-rtx"], "rtx4090", RTX),
        (None, ["tensorrt", "tensorrt-rtx"], "rtx4090", RTX),  # full TensorRT cannot build for a card that is not here
        ("8.9", ["tensorrt", "tensorrt-rtx"], "rtx4090", FULL),
        ("8.9", ["tensorrt", "tensorrt-rtx"], "rtx3090", RTX),
        ("9.0", ["tensorrt"], "h100", FULL),
    ],
)
def test_auto_takes_the_flavour_that_can(
    monkeypatch: pytest.MonkeyPatch, gpu: str | None, installed: list[str], target: str, chosen: object
) -> None:
    _this_machine_has(monkeypatch, gpu, *installed)
    assert choose_flavour("auto", parse_target(target)) == (chosen, "1.7")


@pytest.mark.parametrize(
    ("gpu", "installed", "flavour", "target", "said"),
    [
        (None, [], "auto", "rtx4090", "TensorRT for RTX is not installed.*pip install .*\\[tensorrt-rtx\\]'"),
        (None, ["tensorrt-rtx"], "tensorrt", "rtx4090", "TensorRT is not installed.*pip install .*\\[tensorrt\\]'"),
        (None, ["tensorrt"], "tensorrt", "rtx4090", "builds only for the GPU in this machine"),
        (None, ["tensorrt-rtx"], "tensorrt-rtx", "h200", "does not build for compute capability 9.0"),
        (None, ["tensorrt-rtx"], "auto", "h200", "TensorRT for RTX does not build for h200, and TensorRT is not inst"),
        ("8.9", ["tensorrt"], "tensorrt", "portable", "builds only for the GPU in this machine"),
    ],
)
def test_what_cannot_be_built_here_says_why(
    monkeypatch: pytest.MonkeyPatch, gpu: str | None, installed: list[str], flavour: str, target: str, said: str
) -> None:
    _this_machine_has(monkeypatch, gpu, *installed)
    with pytest.raises(EnvironmentMissing, match=said):
        choose_flavour(flavour, parse_target(target))


def test_profiles_come_from_the_data_set_and_stay_within_the_model(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    short, typical, long = profiles_for(manifest, batch=8)
    # IEMOCAP's median is 3.69 s: 8 faces, 10 pieces; its 95th percentile 11.33 s: 23 faces, 29 pieces
    assert short.shapes["face_index"].max == (8, 8) and short.shapes["piece_index"].max == (8, 10)
    assert typical.shapes["faces"].max == (8 * 23, 3, 48, 48) and typical.shapes["pieces"].max == (8 * 29, 128, 32)
    assert long.shapes["face_index"].max == (2, 240) and long.shapes["piece_index"].max == (2, 300)
    tokens = min(100, manifest.config["text"]["positions"])
    assert long.shapes["input_ids"].max == (2, tokens)
    shorter = replace(manifest, preprocessing=replace(manifest.preprocessing, max_segment_s=5.0))
    for profile in profiles_for(shorter):
        assert profile.shapes["face_index"].max[1] <= 10 and profile.shapes["piece_index"].max[1] <= 13
    for profile in (short, typical, long):
        for sizes in profile.shapes.values():
            assert all(a <= b <= c for a, b, c in zip(sizes.min, sizes.opt, sizes.max, strict=True))
    with pytest.raises(UsageError, match="no profile 'tall'"):
        profiles_for(manifest, ["tall"])
    with pytest.raises(UsageError, match="names one twice"):
        profiles_for(manifest, ["short", "short"])


def test_no_cpu_runs_a_graph_that_is_for_engines(tiny_bundle: Path) -> None:
    """ONNX Runtime would compute FP8 wrongly, and say nothing (``tests/precision/test_fp8.py``)."""
    for precision in ("fp8", "int8-fp16"):
        with pytest.raises(EnvironmentMissing, match=f"onnxruntime does not run {precision}"):
            open_backend(Bundle.open(tiny_bundle), "onnxruntime", precision)


def test_profiles_from_a_file(tiny_bundle: Path, tmp_path: Path) -> None:
    inputs = Bundle.open(tiny_bundle).manifest.graphs["fp32"].inputs
    axes = {"batch": [1, 1, 2], "tokens": [2, 8, 50], "faces": [1, 4, 8], "face_slots": [1, 4, 8]}
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"mine": axes}))
    with pytest.raises(UsageError, match="how long the axis 'piece_slots' is"):
        read_profiles(file, inputs)
    file.write_text(json.dumps({"mine": axes | {"pieces": [1, 5, 9], "piece_slots": [1, 5, 9]}}))
    (profile,) = read_profiles(file, inputs)
    assert profile.name == "mine" and profile.shapes["faces"].opt == (4, 3, 48, 48)
    for bad in ("{", "[1]", '{"m": {"batch": [3, 2, 1]}}', "{}"):
        file.write_text(bad)
        with pytest.raises(BadDataError, match=r"p\.json"):
            read_profiles(file, inputs)
    with pytest.raises(UsageError, match="there is no file"):
        read_profiles(tmp_path / "other.json", inputs)


def test_profiles_do_not_exceed_the_models_positions(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    sizes = {axis: [1, 2, 4] for axis in ("batch", "faces", "face_slots", "pieces", "piece_slots")}
    file, inputs, most = tmp_path / "p.json", manifest.graphs["fp32"].inputs, manifest.config["text"]["positions"]
    file.write_text(json.dumps({"mine": sizes | {"tokens": [1, 2, most]}}))
    assert read_profiles(file, inputs, manifest)[0].shapes["input_ids"].max == (4, most)
    file.write_text(json.dumps({"mine": sizes | {"tokens": [1, 2, most + 1]}}))
    with pytest.raises(UsageError, match=f"{most + 1} tokens; the model takes {most}"):
        read_profiles(file, inputs, manifest)


def test_the_bundle_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["build-engine", "--fp16"]) == 2
    assert "there is no bundle in this folder" in capsys.readouterr().err
    (tmp_path / "mine.pt").touch()
    with pytest.raises(UsageError, match=r"mmx export mine\.pt"):
        bundle_here(tmp_path)
    for name in ("a.mmx", "b.mmx"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    assert main(["build-engine", "--fp16"]) == 2
    assert "2 bundles in this folder: a.mmx, b.mmx" in capsys.readouterr().err
    (tmp_path / "a.mmx" / "manifest.json").unlink()
    assert bundle_here(tmp_path) == Path("b.mmx")
    assert bundle_here(tmp_path / "b.mmx") == Path()


def test_mmx_build_engine_fp16_word_for_word(built: Built, own: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """In the bundle's folder, with the engine already there under the same settings."""
    monkeypatch.chdir(own.parent)
    assert main(["build-engine", "--fp16", "--target", "rtx4090", "--profiles", "short", "-v"]) == 0
    out = capsys.readouterr().out
    assert "found in" in out and built.record.engine in out and "on 8 samples" in out
    assert "LayerNormalization" in out and "its variance is a mean of squares" in out  # -v
    assert "mmx predict tiny.mmx video.mp4 --backend tensorrt-rtx --precision fp16" in out
    assert main(["inspect", str(engine_in(Path("tiny.mmx")))]) == 0
    assert "precision  fp16" in capsys.readouterr().out
    assert main(["inspect", str(engine_in(Path("tiny.mmx"))), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == built.record.key


def test_no_precision_and_odd_sizes_are_usage_errors(own: Path, capsys) -> None:
    assert main(["build-engine", str(own)]) == 2
    assert "mmx build-engine --fp16" in capsys.readouterr().err
    assert main(["build-engine", "--fp16", "--int8", str(own)]) == 2
    assert "one precision, not fp16 and int8" in capsys.readouterr().err
    assert main(["build-engine", "--fp16", "--workspace", "lots", str(own)]) == 2
    assert main(["build-engine", "--fp16", "--flavour", "onnx", str(own)]) == 2
