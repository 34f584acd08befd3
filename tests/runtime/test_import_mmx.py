"""``import mmx``: what help and completion show, that it costs nothing, and that wrong arguments are ``MmxError``."""

from __future__ import annotations

import pydoc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmx
from mmx import runtime
from mmx.cli.sample_probe import BUNDLE, CLIP


def test_help_and_completion_lead_to_the_predictor() -> None:
    assert "Predictor" in dir(mmx) and set(mmx.__all__) <= set(runtime.__all__)
    page = pydoc.render_doc(mmx, renderer=pydoc.plaintext)
    assert "mmx.Predictor(" in page and "class Prediction" in page
    with pytest.raises(AttributeError, match="no attribute 'Preditor'"):
        _ = mmx.Preditor


def test_importing_it_imports_no_dependency() -> None:
    code = "import sys, mmx; dir(mmx); print([m for m in ('numpy', 'av', 'click', 'mmx.cli') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["mmx", "mmx.cli"])
def test_the_command_runs_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert done.stdout == f"mmx {mmx.__version__}\n"


WRONG: dict[str, Callable[[], Any]] = {
    "a bundle that is no path": lambda: mmx.Predictor(5),  # type: ignore[arg-type]
    "bytes for a bundle": lambda: mmx.Bundle.open(b"ckpt.mmx"),  # type: ignore[arg-type]
    "threads as text": lambda: mmx.Predictor(BUNDLE, threads="4"),  # type: ignore[arg-type]
    "batch_size as text": lambda: mmx.Predictor(BUNDLE, batch_size="4"),  # type: ignore[arg-type]
    "a number for a device": lambda: mmx.Predictor(BUNDLE, device=0),  # type: ignore[arg-type]
    "a number for asr": lambda: mmx.Predictor(BUNDLE, asr=1),  # type: ignore[arg-type]
    "workers as text": lambda: mmx.Pipeline(BUNDLE, workers="2"),  # type: ignore[arg-type]
    "no predictions": lambda: mmx.to_pandas([1]),  # type: ignore[list-item]
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_a_usage_error(what: str) -> None:
    pytest.importorskip("pandas")
    with pytest.raises(mmx.MmxError) as error:
        WRONG[what]()
    assert (error.value.code, error.value.exit_code) == ("usage", 2)
    assert error.value.message


def test_a_file_that_is_not_there_has_its_own_code(tmp_path: Path) -> None:
    with mmx.Predictor(BUNDLE, backend="onnxruntime", threads=1) as predictor:
        with pytest.raises(mmx.MmxError) as error:
            list(predictor.predict(tmp_path / "talk.mp4"))
        (prediction,) = predictor.predict(CLIP)
    assert error.value.code == "missing_path"
    pytest.importorskip("pandas")
    table = mmx.to_pandas(prediction)
    assert list(table["labels"]) == [";".join(prediction.labels)]
