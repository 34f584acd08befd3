"""The Triton repository: valid by Triton's own schema, and its models answer what ``mmx predict`` answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmx.cli.main import main
from mmx.export.variant_writer import made_now, new_variant
from mmx.runtime import Bundle, Prediction, Predictor
from mmx.runtime.errors import UsageError
from mmx.runtime.records import EngineRecord, Profile, Range
from mmx.serving.packaging.triton import write_repository

pytest.importorskip("tritonclient", reason="pip install tritonclient")

from triton_stand_in import Server, check, read_config, schema

SRT = "1\n00:00:00,000 --> 00:00:02,500\nEver tried.\n\n2\n00:00:02,500 --> 00:00:06,000\nNo matter. Try again.\n"


@pytest.fixture(scope="module")
def repository(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "models"
    assert main(["package", str(tiny_bundle), "--triton", str(out), "--name", "emo"]) == 0
    return out


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with Server(repository).loaded() as loaded:
        yield loaded


def request(media: bytes, text: str | None = None, window: float | None = None) -> dict[str, np.ndarray]:
    inputs = {"VIDEO": np.array([[media]], np.object_)}
    if text is not None:
        inputs["TEXT"] = np.array([[text.encode()]], np.object_)
    if window is not None:
        inputs["WINDOW"] = np.array([[window]], np.float64)
    return inputs


def lines(answer: dict[str, np.ndarray] | str) -> list[dict[str, Any]]:
    assert not isinstance(answer, str), answer
    return [json.loads(line) for line in answer["PREDICTIONS"][0]]


def same(ours: dict[str, Any], reference: Prediction) -> None:
    """Compare a JSON line with a prediction: everything but the file's name and the times it took."""
    known = json.loads(json.dumps(asdict(reference)))
    assert list(ours) == ["schema_version", *known] and Prediction.from_dict(ours).file == "video"
    for name, value in known.items():
        if name in ("probabilities", "logits"):
            assert ours[name] == pytest.approx(value, rel=1e-5, abs=1e-6)
        elif name in ("modality_logits", "contributions"):
            assert set(ours[name]) == set(value)
            for modality in value:
                assert ours[name][modality] == pytest.approx(value[modality], rel=1e-5, abs=1e-6)
        elif name == "timings_ms":
            assert set(ours[name]) == set(value)
        elif name != "file":
            assert ours[name] == value, name


def test_every_config_is_valid_by_tritons_schema_and_the_ensemble_fits_together(repository: Path) -> None:
    configs = {path.parent.name: read_config(path) for path in sorted(repository.glob("*/config.pbtxt"))}
    assert sorted(configs) == ["emo", "emo_answer", "emo_graph", "emo_preprocess"]
    for name, config in configs.items():
        assert config.name == name
        assert (repository / name / "1").is_dir()

    ensemble = configs["emo"]
    known = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        inner = configs[step.model_name]
        assert ensemble.max_batch_size <= inner.max_batch_size
        assert set(step.input_map) == {tensor.name for tensor in inner.input}
        for tensor in inner.input:
            assert known[step.input_map[tensor.name]] == (tensor.data_type, list(tensor.dims))
        known |= {step.output_map[tensor.name]: (tensor.data_type, list(tensor.dims)) for tensor in inner.output}
    for tensor in ensemble.output:
        assert known[tensor.name] == (tensor.data_type, list(tensor.dims))

    answer = configs["emo_answer"]
    assert answer.HasField("dynamic_batching") and answer.max_batch_size > 1
    assert all(tensor.allow_ragged_batch for tensor in answer.input)
    assert answer.parameters["graph"].string_value in configs


def test_a_field_that_triton_does_not_know_would_be_found(repository: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.pbtxt"
    for old, new in (("max_batch_size", "max_batch_sizes"), ("TYPE_FP32", "TYPE_FLOAT32")):
        config.write_text((repository / "emo_answer" / "config.pbtxt").read_text().replace(old, new))
        with pytest.raises(Exception, match=new):
            read_config(config)


def test_the_graphs_warm_ups_run(server: Server) -> None:
    config = server.configs["emo_graph"]
    assert [warmup.name for warmup in config.model_warmup] == ["one_utterance", "eight_utterances"]
    for warmup in config.model_warmup:
        kinds = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64}
        inputs = {
            name: np.zeros(list(tensor.dims), kinds[schema().DataType.Name(tensor.data_type)])
            for name, tensor in warmup.inputs.items()
        }
        check(inputs, config.input, config.max_batch_size)
        outputs = server.run_graph("emo_graph", inputs)
        assert not isinstance(outputs, str)
        assert all(np.isfinite(values).all() for values in outputs.values())


def test_requests_that_come_together_get_the_answers_of_mmx_predict(
    server: Server, tiny_bundle: Path, clip: tuple[Path, str], tone: Path
) -> None:
    path, text = clip
    nothing = b"RIFF nothing of the kind"
    server.runs.clear()
    whole, windows, cues, bad, sound = server.infer(
        "emo",
        [
            request(path.read_bytes(), text),
            request(tone.read_bytes(), window=1.5),
            request(path.read_bytes(), SRT),
            request(nothing, text),
            request(tone.read_bytes()),
        ],
    )
    assert isinstance(bad, str) and bad.startswith("video cannot be read as media")
    assert "/" not in bad  # nothing of the server's file system
    assert len(server.runs) == 1  # the segments of all four files went through the graph together
    batch = server.runs[0]
    assert batch["input_ids"].shape[0] == 1 + 2 + 2 + 1

    with Predictor(tiny_bundle, backend="onnxruntime", threads=1) as predictor:
        srt = path.with_suffix(".srt")
        srt.write_text(SRT)
        for answer, options in (
            (whole, {"files": path, "text": text}),
            (windows, {"files": tone, "window": 1.5}),
            (cues, {"files": path, "transcript": srt}),
            (sound, {"files": tone}),
        ):
            expected = list(predictor.predict(**options))
            assert len(lines(answer)) == len(expected)
            for ours, reference in zip(lines(answer), expected, strict=True):
                assert ours["file"] == "video"
                same(ours, reference)


def test_a_file_without_anything_to_go_on_gets_an_answer_that_says_so(server: Server, black: Path) -> None:
    server.runs.clear()
    (answer,) = server.infer("emo", [request(black.read_bytes())])
    (line,) = lines(answer)
    assert line["flags"] == ["no_face", "nothing_to_go_on", "untrained_model"] and line["probabilities"] == {}
    assert not server.runs


def test_when_the_graph_fails_its_requests_get_the_error_and_the_next_ones_an_answer(
    server: Server, tone: Path, black: Path
) -> None:
    server.broken = "out of memory"
    try:
        failed, without = server.infer("emo", [request(tone.read_bytes()), request(black.read_bytes())])
    finally:
        server.broken = ""
    assert failed.endswith("failed on 1 segment: out of memory")
    assert lines(without)[0]["flags"] == ["no_face", "nothing_to_go_on", "untrained_model"]
    (after,) = server.infer("emo", [request(tone.read_bytes())])
    assert lines(after)[0]["modalities"] == ["audio"]


def test_a_file_that_is_too_long_for_one_request_is_rejected(server: Server, tone: Path) -> None:
    model = server.python["emo_preprocess"]
    limit, model._max_rows = model._max_rows, 5
    try:
        (rejected,) = server.infer("emo", [request(tone.read_bytes())])
    finally:
        model._max_rows = limit
    assert isinstance(rejected, str) and "too long for one request" in rejected


def test_a_changed_file_is_not_loaded(repository: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(repository, tmp_path / "models")
    with (copy / "emo_preprocess/1/bundle/faces/rnet.onnx").open("ab") as net:
        net.write(b"\0")
    with pytest.raises(Exception, match=r"rnet\.onnx was changed"), Server(copy).loaded():
        pass


def test_a_folder_with_files_is_left_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert main(["package", str(tiny_bundle), "--triton", str(tmp_path / "mine")]) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


@pytest.fixture
def with_engine(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The bundle with a file that its record calls an engine of the full TensorRT, for at most two utterances."""
    path = shutil.copytree(tiny_bundle, tmp_path / "tiny.mmx")
    bundle = Bundle.open(path)
    graph = bundle.manifest.graphs["fp32"]
    shapes = {
        spec.name: Range(
            min=tuple(axis if isinstance(axis, int) else 1 for axis in spec.axes),
            opt=tuple(axis if isinstance(axis, int) else (1 if axis == "batch" else 8) for axis in spec.axes),
            max=tuple(axis if isinstance(axis, int) else (2 if axis == "batch" else 64) for axis in spec.axes),
        )
        for spec in graph.inputs
    }
    record = EngineRecord(
        source=bundle.graph_sha256,
        files={},
        engine="tensorrt-sm89-fp32-0.engine",
        size=6,
        key="0",
        flavour="tensorrt",
        version="10.13.0",
        target="sm89",
        capabilities=("8.9",),
        precision="fp32",
        graph=graph.file,
        graph_sha256=bundle.graph_sha256,
        inputs=graph.inputs,
        outputs=graph.outputs,
        profiles=(Profile("short", shapes), Profile("long", shapes)),
        **made_now(),
    )
    with new_variant(bundle) as folder:
        (folder.path / record.engine).write_bytes(b"engine")
        folder.publish("tensorrt-sm89-fp32-0", record)
    return path


def test_an_engine_is_packed_with_its_profiles_and_batches_are_cut_to_them(
    with_engine: Path, tmp_path: Path, tone: Path
) -> None:
    out = tmp_path / "models"
    assert main(["package", str(with_engine), "--triton", str(out), "--backend", "tensorrt"]) == 0
    config = read_config(out / "mmx_graph" / "config.pbtxt")
    assert (out / "mmx_graph/1/model.plan").read_bytes() == b"engine"
    assert config.backend == "tensorrt" and list(config.instance_group[0].profile) == ["0", "1"]
    assert [warmup.name for warmup in config.model_warmup] == ["short", "long"]

    # The graph stands in for the plan, which no TensorRT here could load.
    shutil.copyfile(with_engine / "model.onnx", out / "mmx_graph/1/model.plan")
    with Server(out).loaded() as server:
        (answer,) = server.infer("mmx", [request(tone.read_bytes(), window=0.6)])
        assert [run["input_ids"].shape[0] for run in server.runs] == [2, 1, 2]
    with Predictor(with_engine, backend="onnxruntime", threads=1) as predictor:
        for ours, reference in zip(lines(answer), predictor.predict(tone, window=0.6), strict=True):
            same(ours, reference)


def test_an_engine_that_triton_cannot_load_is_not_packed(with_engine: Path, tmp_path: Path) -> None:
    for record in (with_engine / "variants").glob("*/record.json"):
        record.write_text(record.read_text().replace('"flavour": "tensorrt"', '"flavour": "tensorrt-rtx"'))
    with pytest.raises(UsageError, match="fp32 of tensorrt-rtx") as error:
        write_repository(Bundle.open(with_engine), tmp_path / "models", backend="tensorrt")
    assert "--flavour tensorrt" in error.value.hint
    assert not list(tmp_path.glob("models*"))
