"""``mmx export`` as a user runs it, and every system through it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from mmx.cli.main import main
from mmx.export import exporter
from mmx.export.folding.fold import fold
from mmx.export.parity import relative_error
from mmx.models.checkpoint import load_checkpoint, save_checkpoint, seeded_module
from mmx.models.registry import SYSTEMS, get_system
from mmx.runtime.bundle import Bundle
from mmx.runtime.files import sha256_of

MMX = [sys.executable, "-m", "mmx.cli.main"]


def save(path: Path, system: str, preset: str, dataset: str = "iemocap") -> Path:
    config = get_system(system).presets[preset]
    save_checkpoint(path, seeded_module(system, config), system, config, dataset=dataset)
    return path


@pytest.fixture
def traced_already(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the seconds of tracing: the graph is that of ``tiny_bundle``."""
    monkeypatch.setattr(exporter, "to_onnx", lambda *_: onnx.load(tiny_bundle / "model.onnx"))


def test_the_full_system_word_for_word(tmp_path: Path):
    """``mmx export ckpt.pt``: with progress, a summary and the next command, and nothing else left."""
    save(tmp_path / "ckpt.pt", "ours", "full")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*MMX, "export", "ckpt.pt"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for stage in exporter.STAGES:
        assert stage in done.stderr
    assert done.stdout.splitlines()[-2].strip() == "mmx predict ckpt.mmx video.mp4"  # it cannot read --text
    assert "parity" in done.stdout and "no tokenizer was found" in done.stderr
    assert "Warning" not in done.stderr and "torch" not in done.stderr.replace("PyTorch", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt.mmx", "ckpt.pt"]

    manifest = Bundle.open(tmp_path / "ckpt.mmx").manifest
    assert (manifest.system, manifest.dataset, manifest.form) == ("ours", "iemocap", "residual")
    assert manifest.provenance["checkpoint"]["sha256"] == sha256_of(tmp_path / "ckpt.pt")
    counts = manifest.provenance["counts"]
    parts = {part: counted["parameters"] for part, counted in counts["checkpoint"].items()}
    expected = get_system("ours").parameters
    assert [parts[name] for name in ("text", "visual", "audio")] == [
        expected[name] for name in ("text", "visual", "audio")
    ]
    model = onnx.load(tmp_path / "ckpt.mmx" / "model.onnx")
    weights = sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert abs(weights - sum(part["parameters"] for part in counts["graph"].values())) < 20_000  # constants


def test_what_the_manifest_says_is_what_the_module_holds(tiny_bundle: Path, tiny_checkpoint: Path):
    module = seeded_module("ours", get_system("ours").presets["tiny"])
    manifest = Bundle.open(tiny_bundle).manifest
    weights = module.weighted_fusion.weight[0].tolist()
    assert manifest.fusion_weights == dict(zip(("text", "visual", "audio"), weights, strict=True))
    assert manifest.thresholds == (0.5,) * 6 and manifest.provenance["thresholds"] == "default"
    assert manifest.provenance["command"] == "mmx export tiny.pt"
    applied = {record["fold"] for record in manifest.folding if record["applied"]}
    assert applied == {"conv_bn", "unused_head", "first_token", "tokens", "simam"}
    assert json.loads((tiny_bundle / "manifest.json").read_text())["config"] == manifest.config


def test_options_are_recorded_and_labels_follow_the_dataset(
    traced_already: None, tiny_checkpoint: Path, tokenizer_dir: Path, tmp_path: Path
):
    command = ["export", str(tiny_checkpoint), "--out", str(tmp_path / "b.mmx"), "--dataset", "mosei"]
    assert main([*command, "--residual", "keep", "--tokenizer", str(tokenizer_dir), "-v"]) == 0
    bundle = Bundle.open(tmp_path / "b.mmx")
    assert bundle.manifest.labels == ("anger", "disgust", "fear", "happy", "sad", "surprise")
    assert bundle.manifest.provenance["command"] == "mmx export tiny.pt --residual keep --dataset mosei"
    assert bundle.tokenizer_dir is not None and [p.name for p in bundle.tokenizer_dir.iterdir()] == ["spiece.model"]


def test_exporting_twice_gives_the_same_bundle(traced_already: None, tiny_checkpoint: Path, tmp_path: Path):
    for _ in range(2):
        assert main(["export", str(tiny_checkpoint), "--out", str(tmp_path / "b.mmx")]) == 0
    first = (tmp_path / "b.mmx" / "manifest.json").read_bytes()
    assert main(["export", str(tiny_checkpoint), "--out", str(tmp_path / "c.mmx")]) == 0
    assert first == (tmp_path / "c.mmx" / "manifest.json").read_bytes()


def test_no_two_checkpoints_share_a_bundle():
    names = {"a/ckpt.pt": "a/ckpt.mmx", "run.7": "run.7.mmx", "run.8": "run.8.mmx", "x.y.pth": "x.y.mmx", "c": "c.mmx"}
    assert {name: str(exporter.default_out(Path(name))) for name in names} == names


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_export_leaves_nothing_that_loads(tiny_checkpoint: Path, tmp_path: Path, sent: signal.Signals):
    out = tmp_path / "ckpt.mmx"
    command = [*MMX, "export", str(tiny_checkpoint), "--out", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stderr is not None
    seen = b""
    while b"export the graph" not in seen:
        byte = running.stderr.read(1)
        assert byte, seen
        seen += byte
    running.send_signal(sent)
    running.communicate(timeout=60)
    assert not out.exists()
    left = list(tmp_path.iterdir())
    if sent is signal.SIGINT:
        assert running.returncode == 130 and left == []
    else:
        assert len(left) == 1 and not (left[0] / "manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.pt"], 2, "missing.pt"),
        (["tiny.pt", "--tokenizer", "nowhere"], 2, "nowhere does not exist"),
        (["tiny.pt", "--residual", "remove"], 2, "residual"),
        (["tiny.pt", "--dataset", "imagenet"], 2, "imagenet"),
        (["tiny.pt", "--system", "nonsense"], 2, "nonsense"),
        (["tiny.pt", "--out", "videos"], 2, "videos exists and is not an mmx bundle"),
        (["tiny.pt", "--out", "tiny.pt/x.mmx"], 2, "tiny.pt/x.mmx cannot be written"),
        ([], 2, "CHECKPOINT"),
    ],
)
def test_a_mistake_is_one_clear_line(
    arguments: list[str],
    code: int,
    words: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    (tmp_path / "tiny.pt").symlink_to(tiny_checkpoint)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == code
    errors = capsys.readouterr().err.split("mmx: error: ")
    assert len(errors) == 2 and words in errors[1].splitlines()[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.pt", "videos"]


def cases() -> list:
    """Every system and form in its tiny preset, and the residual forms; the others take long together."""
    quick = {("v2em", "tiny", "auto"), ("lf-lstm", "tiny", "auto")}
    found = [
        (name, preset, "auto") for name, system in SYSTEMS.items() for preset in system.presets if "tiny" in preset
    ]
    found += [("ours", "tiny", "merge"), ("ours", "tiny-reserved", "merge"), ("ours", "tiny-reserved", "keep")]
    found.remove(("ours", "tiny", "auto"))  # the bundle that all other tests use
    return [pytest.param(*case, marks=() if case in quick else pytest.mark.slow) for case in found]


@pytest.mark.parametrize(("system", "preset", "residual"), cases())
def test_every_system_and_form(system: str, preset: str, residual: str, tmp_path: Path):
    report = exporter.export_bundle(save(tmp_path / "x.pt", system, preset), residual=residual)  # type: ignore[arg-type]
    bundle = Bundle.open(tmp_path / "x.mmx")
    assert bundle.manifest.system == system and report.parity.worst < 2e-5
    media = get_system(system).inputs == "media"
    assert (bundle.face_nets is not None) == media
    if residual == "merge":
        merged = [record for record in report.folds if record.fold == "residual_free"]
        assert merged and all(record.applied for record in merged)


def reference_inputs(arrays: np.lib.npyio.NpzFile) -> dict[str, np.ndarray]:
    """A published case as the graph takes it (see tests/reference/README.md)."""

    def index(lengths: np.ndarray) -> np.ndarray:
        slot, first = np.arange(lengths.max()), np.cumsum(lengths) - lengths
        return np.where(slot < lengths[:, None], first[:, None] + slot, -1)

    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in ((159, 111, 102), (37, 33, 32)))
    return {
        "input_ids": arrays["c1/in/input_ids"],
        "attention_mask": arrays["c1/in/attention_mask"],
        "faces": arrays["c1/in/faces"] * std + mean,
        "face_index": index(arrays["c1/in/v_lens"]),
        "pieces": arrays["c1/in/specs"][:, 0],
        "piece_index": index(arrays["c1/in/a_lens"]),
    }


@pytest.fixture
def published(reference: Path) -> Callable[[str], dict[str, torch.Tensor]]:
    """A state dict as the public trainers write it, with the reference's weights."""
    spec = importlib.util.spec_from_file_location("fill", reference / "fill.py")
    assert spec is not None and spec.loader is not None
    filler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(filler)

    def state(keys: str) -> dict[str, torch.Tensor]:
        layout = json.loads((reference / "keys" / f"{keys}.json").read_text())
        return {
            name: torch.from_numpy(filler.fill(name, shape))
            if kind == "float32" and not name.startswith("mtcnn.")
            else torch.zeros(shape, dtype=getattr(torch, kind))
            for name, shape, kind in layout
        }

    return state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "file", "outputs", "form"),
    [
        ("v2em_train", "v2em", "out", "training"),
        ("v2em_deploy", "v2em", "out_deploy", "deployed"),
        ("mme2e", "mme2e", "out", "training"),
    ],
)
def test_published_outputs_through_the_bundle(
    keys: str, file: str, outputs: str, form: str, published: Callable, reference: Path, tmp_path: Path
):
    """A public file -> ``mmx export`` -> ONNX Runtime gives the published outputs; v2em within its time."""
    state = published(keys)
    if form == "deployed":
        torch.save(published("v2em_train"), tmp_path / "train.pt")
        folded = fold(load_checkpoint(tmp_path / "train.pt").module)[0].state_dict()
        state.update({name: folded[name] for name in state if "rbr_reparam" in name})
        (tmp_path / "train.pt").unlink()
    torch.save(state, tmp_path / "ckpt.pt")
    start = time.process_time()
    assert main(["export", str(tmp_path / "ckpt.pt"), "--dataset", "iemocap"]) == 0
    assert time.process_time() - start < 120
    bundle = Bundle.open(tmp_path / "ckpt.mmx")
    assert bundle.manifest.form == form
    with np.load(reference / f"{file}.npz") as arrays:
        found = ort.InferenceSession(bundle.graph().path).run(None, reference_inputs(arrays))
        for got, name in zip(found, ("fused", "logits_t", "logits_v", "logits_a"), strict=True):
            assert relative_error(got, arrays[f"c1/{outputs}/{name}"].reshape(got.shape)) < 2e-5, name
