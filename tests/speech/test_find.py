"""Which recogniser --asr means, and the commands around it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from mmx.cli.main import mmx
from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, UsageError
from mmx.runtime.speech.find import automatic, find_recogniser


@pytest.fixture(autouse=True)
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache of this test's own, and no MMX_ASR."""
    monkeypatch.delenv("MMX_ASR", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def in_cache(hub: Path, repository: str, model: Path) -> None:
    """Lay a model where the Hub's client keeps it."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "abc").symlink_to(model, target_is_directory=True)


def test_none_and_nothing_found() -> None:
    assert find_recogniser("none") is None
    assert automatic() is None
    assert find_recogniser("auto") is None


def test_a_folder_the_variable_and_the_cache(
    english_model: Path, nothing_cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_recogniser(str(english_model)).name.startswith("whisper:")
    monkeypatch.setenv("MMX_ASR", str(english_model))
    assert find_recogniser("auto") is not None
    monkeypatch.delenv("MMX_ASR")
    in_cache(nothing_cached, "Systran/faster-whisper-tiny.en", english_model)
    assert find_recogniser("tiny.en") is not None
    assert find_recogniser("auto") is None  # it could not detect the language
    in_cache(nothing_cached, "Systran/faster-whisper-small", english_model)
    assert automatic() == "small"


def test_what_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(EnvironmentMissing, match="base is not on this machine") as caught:
        find_recogniser("base")
    assert caught.value.hint == "mmx asr pull base"
    with pytest.raises(UsageError, match="no Whisper model 'bass'"):
        find_recogniser("bass")


def a_nemo_model(folder: Path, word: str = "hey") -> Path:
    """A model in onnx-asr's layout that says ``word`` once, where the sound is loudest of all 0.08 s steps."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "nemo-conformer-ctc", "features_size": 80}))
    (folder / "vocab.txt").write_text(f"<unk> 0\n\u2581{word} 1\n<blk> 2\n", encoding="utf-8")
    steps = helper.make_node("AveragePool", ["audio_signal"], ["steps"], kernel_shape=[8], strides=[8], ceil_mode=1)
    nodes = [
        steps,
        helper.make_node("ReduceMean", ["steps", "one"], ["level"], keepdims=0),  # [batch, steps]
        helper.make_node("ReduceMax", ["level", "one"], ["peak"], keepdims=1),
        helper.make_node("Equal", ["level", "peak"], ["loudest"]),
        helper.make_node("Cast", ["loudest"], ["here"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["here", "two"], ["column"]),
        helper.make_node("Mul", ["column", "says"], ["logprobs_"]),
        helper.make_node("Add", ["logprobs_", "blank"], ["logprobs"]),
    ]
    constants = {
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "says": np.array([0, 9.9, 0], np.float32),
        "blank": np.array([-9, -10, -0.2], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "nemo",
        [
            helper.make_tensor_value_info("audio_signal", TensorProto.FLOAT, ["batch", 80, "frames"]),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("logprobs", TensorProto.FLOAT, ["batch", "steps", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "model.onnx"
    )
    return folder


def test_a_model_of_onnx_asr(tmp_path: Path) -> None:
    """onnx-asr's own loading, features and decoding, on a graph made here."""
    recogniser = find_recogniser(str(a_nemo_model(tmp_path / "nemo")))
    assert recogniser is not None and not recogniser.detects_language
    sound = 0.001 * np.random.default_rng(0).standard_normal(5 * 16000).astype(np.float32)
    sound[3 * 16000 : 3 * 16000 + 2000] *= 300
    (word,) = recogniser.recognise(sound, "en")
    assert word.text == "hey"
    assert abs(word.start - 3.0) <= 0.16
    assert 0.8 < word.probability <= 1


def test_damaged_models_are_one_line(tmp_path: Path) -> None:
    folder = a_nemo_model(tmp_path / "nemo")
    (folder / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(BadDataError, match="no onnx-asr model"):
        find_recogniser(str(folder))
    (folder / "config.json").write_text("[]")
    with pytest.raises(BadDataError, match="no onnx-asr model"):
        find_recogniser(str(folder))


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(mmx, arguments)
    if isinstance(result.exception, MmxError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


def test_transcribe_writes_subtitles(clip: tuple[Path, str], english_model: Path, tmp_path: Path) -> None:
    from mmx.runtime.media.transcript import read_transcript

    for suffix in (".srt", ".vtt"):
        out = tmp_path / f"talk{suffix}"
        code, said = run("transcribe", str(clip[0]), "--asr", str(english_model), "--language", "en", "--out", str(out))
        assert code == 0, said
        cues = read_transcript(out)
        assert not isinstance(cues, str)
        assert " ".join(cue.text or "" for cue in cues).lower().replace(",", ".") == clip[1].lower().replace(",", ".")
    assert run("transcribe", str(clip[0]), "--asr", str(english_model))[0] == 2  # it cannot detect the language
    assert run("transcribe", str(clip[0]), "--out", str(tmp_path / "talk.doc"))[0] == 2
    assert run("transcribe", str(clip[0]))[0] == 4
    assert run("transcribe", str(tmp_path / "nope.mp4"), "--asr", str(english_model), "--language", "en")[0] != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["talk.srt", "talk.vtt"]


def test_asr_list(english_model: Path, nothing_cached: Path) -> None:
    assert run("asr", "list")[1] == "--asr auto finds none: mmx asr pull small\n"
    in_cache(nothing_cached, "Systran/faster-whisper-tiny", english_model)
    assert run("asr", "list")[1] == "tiny\n--asr auto takes tiny\n"
