"""Fixtures that every test folder shares."""

from __future__ import annotations

import importlib.util
import os
import pydoc_data.topics
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for variants, hub_server
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as mmx.cli.main, for what the tests compute themselves

os.environ["MMX_ASR"] = "none"  # whatever models this machine has, unless a test asks for one

import av
import numpy as np
import pytest
from filelock import FileLock
from hub_server import Hub

from mmx.runtime.errors import EnvironmentMissing

ROOT = Path(__file__).parents[1]

# A shell without job control has what runs in its background ignore Ctrl-C, and the commands under test inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of published layouts, the weight filler and expected outputs (see its README)."""
    return Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small ``spiece.model`` with ALBERT's special ids, trained on Python's manual."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for topic in pydoc_data.topics.topics.values() for line in topic.lower().splitlines()),
        model_prefix=str(folder / "spiece"),
        vocab_size=2000,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        bos_piece="[CLS]",
        eos_id=3,
        eos_piece="[SEP]",
        control_symbols=["[MASK]"],
        minloglevel=2,
    )
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ``ours`` in its tiny preset: seeded weights, IEMOCAP's labels."""
    from mmx.models.checkpoint import save_checkpoint, seeded_module
    from mmx.models.registry import get_system

    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    config = get_system("ours").presets["tiny"]
    save_checkpoint(path, seeded_module("ours", config), "ours", config, dataset="iemocap")
    return path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """``made_once(name, make)``: what ``make(path)`` makes, once for all processes of this run, under that name."""

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            folder = folder.parent  # of the run; each process has a folder of its own in it
        path, done = folder / "once" / name, folder / "once" / f"{name}.done"
        path.parent.mkdir(exist_ok=True)
        with FileLock(path.with_name(f"{name}.lock")):
            if not done.exists():
                make(path)
                done.touch()
        return path

    return made


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_checkpoint: Path, tokenizer_dir: Path, made_once: Callable[[str, Callable[[Path], None]], Path]
) -> Path:
    """``tiny_checkpoint`` exported, with tokenizer and face nets. Do not change it: every test folder shares it."""
    from mmx.export.exporter import export_bundle

    return made_once("tiny.mmx", lambda out: export_bundle(tiny_checkpoint, out, tokenizer=tokenizer_dir))


@pytest.fixture(scope="session")
def clip(made_once: Callable[[str, Callable[[Path], None]], Path]) -> tuple[Path, str]:
    """Ten seconds of a talking face with real speech, and the transcript (see demo/clip.py)."""

    def make(path: Path) -> None:
        built = subprocess.run([sys.executable, ROOT / "demo" / "clip.py", path], capture_output=True, text=True)
        if built.returncode == EnvironmentMissing.exit_code:
            pytest.skip(f"the clip's media can't be had here: {built.stderr}")
        assert built.returncode == 0, built.stderr

    path = made_once("talk.mp4", make)
    return path, path.with_suffix(".txt").read_text(encoding="utf-8").strip()


@pytest.fixture(scope="session")
def older_cpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a child process sees a CPU with AVX2 alone (see tests/older_cpu/run.py)."""
    spec = importlib.util.spec_from_file_location("older_cpu", Path(__file__).parent / "older_cpu" / "run.py")
    assert spec and spec.loader
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    if reason := run.obstacle():
        pytest.skip(reason)
    environment: dict[str, str] = run.older_environment(tmp_path_factory.mktemp("older_cpu"))
    return environment


@pytest.fixture(scope="session")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a 300 Hz tone with some noise, 16 kHz mono WAV."""
    path = tmp_path_factory.mktemp("tone") / "tone.wav"
    time = np.arange(48000) / 16000
    sound = 0.3 * np.sin(2 * np.pi * 300 * time) + 0.01 * np.random.default_rng(0).standard_normal(48000)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((sound * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="session")
def black(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of black picture, no sound track."""
    path = tmp_path_factory.mktemp("black") / "black.mp4"
    with av.open(path, "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(20):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A server here that speaks the protocol of the Hugging Face Hub."""
    server = Hub()
    yield server
    server.close()
