"""Fixtures that every test folder shares."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import pytest


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
def tiny_bundle(tiny_checkpoint: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_checkpoint`` exported, with tokenizer and face nets. Do not change it: every test folder shares it."""
    from mmx.export.exporter import export_bundle

    out = tmp_path_factory.mktemp("bundle") / "tiny.mmx"
    export_bundle(tiny_checkpoint, out, tokenizer=tokenizer_dir)
    return out
