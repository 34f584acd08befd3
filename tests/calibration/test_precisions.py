"""The table of precisions: noise that is made anew is the same, and what is measured is what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import precisions
import pytest
from click.testing import CliRunner

from mmx.calibration.noise import Noise
from mmx.runtime.bundle import Bundle


def test_noise_is_as_long_as_utterances_and_the_same_each_time(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    noise = Noise(manifest, 5, 0)
    lengths = [len(noise[i].pieces) for i in range(5)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]
    for name in ("token_ids", "faces", "pieces"):
        np.testing.assert_array_equal(getattr(noise[3], name), getattr(Noise(manifest, 5, 0)[3], name))
    assert not np.array_equal(noise[3].faces, Noise(manifest, 5, 1)[3].faces)
    digests = {Noise(manifest, 5, 0).digest(), Noise(manifest, 6, 0).digest(), Noise(manifest, 5, 1).digest()}
    assert len(digests) == 3 and noise.digest() in digests
    with pytest.raises(IndexError):
        noise[5]


def test_the_tables_on_noise(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row for each engine and precision; the first is its own reference; a rejected variant is a note."""
    monkeypatch.setattr(precisions, "NOISY", 3)
    monkeypatch.setattr(precisions, "PASSES", 1)
    monkeypatch.setattr(precisions, "with_variants", lambda bundle, *_, **__: (bundle, ("no INT8: for a reason",)))
    done = CliRunner().invoke(precisions.main, ["--noise", str(tiny_bundle), "--out", str(tmp_path / "table")])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "table.json").read_text())["tables"][0]
    rows = {row["name"]: row for row in found["rows"]}
    assert {"onnxruntime fp32", "openvino fp32"} <= set(rows)
    assert rows["onnxruntime fp32"]["error"] == 0 and 0 < rows["openvino fp32"]["error"] < 1e-4
    assert rows["onnxruntime fp32"]["f1"] is None and rows["openvino fp32"]["flips"] == 0
    text = (tmp_path / "table.md").read_text()
    assert "no INT8: for a reason" in text and "no accuracy" in text
    assert f"| {rows['openvino fp32']['shift']:.4f} |" in text
