"""``mmx inspect`` on checkpoints and bundles, good and bad."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmx.cli.main import main
from mmx.runtime.manifest_reader import read_manifest


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["inspect", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.fixture
def altered(tiny_bundle: Path, tmp_path: Path):
    """A copy of the bundle whose manifest a function changed."""

    def make(change) -> Path:
        copy = tmp_path / "altered.mmx"
        shutil.copytree(tiny_bundle, copy)
        manifest = json.loads((copy / "manifest.json").read_text())
        change(manifest)
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    return make


def test_checkpoint(capsys, tiny_checkpoint: Path) -> None:
    """The total before is what the file holds, buffers apart; `auto` says what it chose and why."""
    code, out, err = run(capsys, tiny_checkpoint)
    assert (code, err) == (0, "")
    state = torch.load(tiny_checkpoint, weights_only=True)["state_dict"]
    held = sum(t.numel() for name, t in state.items() if "running_" not in name and "num_batches" not in name)
    assert re.search(rf"^total +{held:,} ", out, re.M)
    folded, kept = out.split("\nnot folded\n")
    assert "V.1: folded into V.0" in folded and "T.albert.pooler: dropped" in folded
    assert "V.4.block, V.5.block, V.6.block, V.8.block: shortcut kept: auto" in kept
    assert "layer_norm" in kept and "simam" not in kept


def test_residual_choice(capsys, tiny_checkpoint: Path) -> None:
    """Merging shows in the report and in the arithmetic; nothing but the visual trunk changes."""
    found = {}
    for residual in ("merge", "keep"):
        code, out, _ = run(capsys, tiny_checkpoint, "--residual", residual, "--json")
        assert code == 0
        found[residual] = json.loads(out)
    merge, keep = found["merge"]["counts"]["graph"], found["keep"]["counts"]["graph"]
    assert {part for part in merge if merge[part] != keep[part]} == {"visual"}
    assert merge["visual"]["macs"] > keep["visual"]["macs"]
    applied = {
        residual: [r["applied"] for r in f["folding"] if r["fold"] == "residual_free"] for residual, f in found.items()
    }
    assert applied == {"merge": [True] * 4, "keep": [False] * 4}


def test_bundle_and_checkpoint_agree(capsys, tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    """A bundle's manifest says of the folding and the sizes what the checkpoint itself says."""
    checkpoint, bundle = (json.loads(run(capsys, path, "--json")[1]) for path in (tiny_checkpoint, tiny_bundle))
    for key in ("system", "form", "dataset", "labels", "thresholds", "config", "folding"):
        assert checkpoint[key] == bundle[key], key
    assert checkpoint["counts"] == bundle["provenance"]["counts"]
    assert checkpoint["sha256"] == bundle["provenance"]["checkpoint"]["sha256"]


def test_bundle(capsys, tiny_bundle: Path) -> None:
    """Every input, output and file is listed, with the parity that the manifest records."""
    code, out, err = run(capsys, tiny_bundle)
    assert (code, err) == (0, "")
    manifest = read_manifest(tiny_bundle / "manifest.json")
    graph = manifest.graphs["fp32"]
    for tensor in (*graph.inputs, *graph.outputs):
        axes = ", ".join(map(str, tensor.axes))
        assert re.search(rf" {tensor.name} +{tensor.dtype} +\[{re.escape(axes)}\]$", out, re.M)
    for name, digest in manifest.files.items():
        assert re.search(rf"^  {re.escape(name)} .* {digest[:16]}$", out, re.M)
    assert f"worst relative error {graph.parity['worst']:.1e}, 2e-05 allowed" in out
    assert "multiply-accumulates of one utterance" in out and "not folded" in out


def test_bundle_needs_no_torch(tiny_bundle: Path) -> None:
    block = "import sys; sys.modules.update({'torch': None, 'onnx': None, 'onnxruntime': None, 'numpy': None})"
    code = f"{block}; from mmx.cli.main import main; sys.exit(main(['inspect', {str(tiny_bundle)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "every SHA-256 as the manifest says" in done.stdout


def test_changed_file_is_told(capsys, tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "changed.mmx"
    shutil.copytree(tiny_bundle, copy)
    with (copy / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\1\2\3")
    code, out, err = run(capsys, copy)
    assert (code, out) == (5, "") and "model.onnx" in err and "changed" in err


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["provenance"].update(counts={"checkpoint": 3, "graph": []}),
        lambda m: m["provenance"].update(counts="none"),
        lambda m: m["provenance"].update(checkpoint=["a"]),
        lambda m: m["folding"].append({"fold": "x"}),
        lambda m: m["graphs"]["fp32"].update(parity={"worst": "small"}),
    ],
)
def test_nonsense_in_the_free_parts_is_one_line(capsys, altered, change) -> None:
    path = altered(change)
    code, out, err = run(capsys, path)
    assert (code, out) == (5, "") and str(path) in err and err.count("\n") == 2


def test_control_characters_do_not_reach_the_terminal(capsys, altered) -> None:
    path = altered(lambda m: m["provenance"].update(command="mmx \x1b[2J export\nfake line"))
    code, out, _ = run(capsys, path)
    assert code == 0 and "\x1b" not in out and "\nfake line" not in out


def test_flags_of_a_checkpoint_on_a_bundle(capsys, tiny_bundle: Path) -> None:
    for flag in (("--residual", "merge"), ("--system", "ours"), ("--dataset", "mosei")):
        code, out, err = run(capsys, tiny_bundle, *flag)
        assert (code, out) == (2, "") and flag[0] in err


def test_what_is_neither(capsys, tmp_path: Path) -> None:
    """A missing path, a text file, a folder that is no bundle: one line each."""
    text = tmp_path / "notes.pt"
    text.write_text("hello")
    for path in (tmp_path / "no.pt", text, tmp_path):
        code, out, err = run(capsys, path)
        assert (code, out) == (5 if path.exists() else 2, "") and path.name in err, err
