"""``mmx eval --corrupt``: faults reach what they harm, before faces are found and mel is made, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmx.cli.main import main
from mmx.datasets.corrupted import Corrupted
from mmx.datasets.corruptions import Corruption, parse_corruptions
from mmx.datasets.dataset import find_dataset
from mmx.datasets.samples import Utterances
from mmx.export.face_nets import face_nets
from mmx.models.checkpoint import save_checkpoint, seeded_module
from mmx.models.registry import get_system
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.text import Tokenizer


@pytest.fixture(scope="module")
def clean(drawn: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Utterances:
    spec = Preprocessing()
    tokenizer = Tokenizer.load(tokenizer_dir, spec.text)
    cache = tmp_path_factory.mktemp("cache")
    return Utterances(find_dataset(drawn).items("test")[:3], spec, face_nets(), tokenizer, cache=cache)


@pytest.mark.parametrize(
    "fault", parse_corruptions("noise:0,babble:0,reverb:1,codec:6,blur:4,dark:4,lowres:8"), ids=str
)
def test_a_fault_harms_its_modality_alone(clean: Utterances, fault: Corruption) -> None:
    made, before = Corrupted(clean, fault)[1], clean[1]
    parts = {"audio": "pieces", "visual": "faces", "text": "token_ids"}
    for modality, part in parts.items():
        same = np.array_equal(getattr(made, part), getattr(before, part))
        assert same == (modality != fault.modality)
    assert made.pieces.shape == before.pieces.shape


def test_what_is_drawn_depends_on_the_seed_and_the_place(clean: Utterances) -> None:
    words = Corruption("asr-errors", 0.5)
    first, again, other = (Corrupted(clean, words, seed)[0].token_ids for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, clean[0].token_ids) and not np.array_equal(first, other)
    assert len(Corrupted(clean, words)) == 3 and np.array_equal(Corrupted(clean, words).targets, clean.targets)


def test_the_command_prints_a_table_and_draws_charts(
    drawn: Path, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = get_system("ours").presets["tiny"]
    save_checkpoint(tmp_path / "c.pt", seeded_module("ours", config), "ours", config, dataset="mosei")
    shutil.copy(tokenizer_dir / "spiece.model", tmp_path)
    options = ["--data", str(drawn), "--samples", "3", "--no-speed", "--cache", str(tmp_path / "cache")]
    command = ["eval", str(tmp_path / "c.pt"), *options]
    faults = ["--corrupt", "noise:0,blur:4,asr-errors:0.5"]
    assert main([*command, *faults, "--json", "--chart", str(tmp_path / "faults.svg")]) == 0
    found = json.loads(capsys.readouterr().out)["probabilities"]
    assert found["sets"][0]["modalities"] == "text+visual+audio" and len(found["sets"]) == 7
    assert all(each["after"] is None for each in found["sets"])  # never calibrated
    shown = [(each["modality"], each["fault"], each["severity"]) for each in found["faults"]]
    assert shown == [
        *(("text", "", None), ("text", "asr-errors", 0.5)),
        *(("visual", "", None), ("visual", "blur", 4.0)),
        *(("audio", "", None), ("audio", "noise", 0.0)),
    ]
    brier = {(each["modality"], each["fault"]): each["alone"]["brier"] for each in found["faults"]}
    whole = next(each["before"] for each in found["sets"] if each["modalities"] == "audio")
    assert brier["audio", ""] == whole["brier"] != brier["audio", "noise"]
    assert "<svg" in (tmp_path / "faults.svg").read_text() and "dB SNR" in (tmp_path / "faults.svg").read_text()

    assert main([*command, "--chart", str(tmp_path / "sets.png")]) == 0
    said = capsys.readouterr().out
    assert "text+visual+audio" in said and "not calibrated: mmx calibrate BUNDLE --probabilities" in said
    assert (tmp_path / "sets.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_options_are_one_line(drawn: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", str(tiny_checkpoint), "--data", str(drawn)]
    for more, said in ((["--corrupt", "fog"], "no corruption 'fog'"), (["--chart", "x.doc"], "should end in .svg")):
        assert main([*command, *more]) == 2
        assert said in capsys.readouterr().err
