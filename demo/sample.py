"""The second of video that `mmx doctor` predicts, and its bundle: python demo/sample.py [FOLDER]

A disc moves over a dark ground, and the bundle's three face nets take a bright disc for a face; its graph looks at the
means of faces, sound and token ids. So the whole way from a file to a prediction is run, in some 30 kB that hold
nobody's face, voice or weights. Written to cli/sample/ by default; the tests hold that folder against this script.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import onnx
import sentencepiece
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mmx.export.bundle_writer import hash_files, write_manifest
from mmx.runtime import Predictor
from mmx.runtime.manifest import SCHEMA_VERSION, FaceSpec, GraphSpec, Manifest, Preprocessing, TensorSpec

SIZE, RADIUS, FPS, RATE = 96, 20, 8, 16000
LABELS = ("calm", "lively")
MODALITIES = ("text", "visual", "audio")
TEXT = "one two three"
OPSET = 18
WEIGHTS = {"text": (0.02, -0.03), "visual": (1.5, -1.0), "audio": (-0.4, 0.6)}


def disc(size: int, center: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    """Where a disc lies in a square picture."""
    y, x = np.mgrid[:size, :size]
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


def write_clip(path: Path) -> None:
    """A second of H.264 and AAC: the disc moves to the right while a tone sounds."""
    with av.open(path, "w") as out:
        video = out.add_stream("libx264", rate=FPS, options={"crf": "18", "preset": "veryslow"})
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        sound = out.add_stream("aac", rate=RATE, layout="mono")
        for i in range(FPS):
            picture = np.full((SIZE, SIZE, 3), 20, np.uint8)
            picture[disc(SIZE, (40 + 2 * i, 48), RADIUS)] = (230, 200, 180)
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)[None]
        for start in range(0, RATE, 1024):
            frame = av.AudioFrame.from_ndarray(tone[:, start : start + 1024].copy(), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            out.mux(sound.encode(frame))
        out.mux([*video.encode(None), *sound.encode(None)])


def write_tokenizer(folder: Path) -> None:
    """A SentencePiece model of a few words, with ALBERT's special ids."""
    folder.mkdir()
    model = io.BytesIO()  # a file's name would get into the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three four five"] * 9),
        model_writer=model,
        vocab_size=32,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        bos_piece="[CLS]",
        eos_id=3,
        eos_piece="[SEP]",
        minloglevel=9,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())


def face_net(size: int) -> onnx.ModelProto:
    """A net that is sure of a face where a bright disc fills its field: pixels -> one logit and four offsets of 0."""
    field = disc(12, (5.5, 5.5), 5.5)
    kernel = np.where(field, 1 / field.sum(), -1 / (~field).sum()) / 3
    weight = np.zeros((5, 3, 12, 12), np.float32)
    weight[0] = 0.1 * kernel
    bias = np.array([-6, 0, 0, 0, 0], np.float32)
    nodes, pixels = [], "pixels"
    if size > 12:
        step = size // 12
        nodes.append(helper.make_node("AveragePool", [pixels], ["small"], kernel_shape=[step] * 2, strides=[step] * 2))
        pixels = "small"
    out = "logit_and_offsets" if size == 12 else "map"
    nodes.append(helper.make_node("Conv", [pixels, "weight", "bias"], [out], strides=[2, 2]))
    if size > 12:
        nodes.append(helper.make_node("Flatten", ["map"], ["logit_and_offsets"]))
    shape = ["n", 3, "h", "w"] if size == 12 else ["n", 3, size, size]
    given = ["n", 5, "rows", "columns"] if size == 12 else ["n", 5]
    return _model(
        nodes,
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logit_and_offsets", TensorProto.FLOAT, given)],
        {"weight": weight, "bias": bias},
    )


INPUTS = (
    TensorSpec("input_ids", "int64", ("batch", "tokens")),
    TensorSpec("attention_mask", "int64", ("batch", "tokens")),
    TensorSpec("faces", "float32", ("faces", 3, 48, 48)),
    TensorSpec("face_index", "int64", ("batch", "face_slots")),
    TensorSpec("pieces", "float32", ("pieces", 128, 32)),
    TensorSpec("piece_index", "int64", ("batch", "piece_slots")),
)
OUTPUTS = tuple(
    TensorSpec(name, "float32", ("batch", len(LABELS))) for name in ("logits", *(f"logits_{m}" for m in MODALITIES))
)


def graph() -> onnx.ModelProto:
    """The graph contract with one number for each modality: the mean token id, the mean light, log(1 + power)."""
    node = helper.make_node
    nodes = [
        node("Mul", ["input_ids", "attention_mask"], ["ids"]),
        node("ReduceSum", ["ids", "one"], ["ids_sum"]),
        node("ReduceSum", ["attention_mask", "one"], ["tokens"]),
        node("Cast", ["ids_sum"], ["ids_float"], to=TensorProto.FLOAT),
        node("Cast", ["tokens"], ["tokens_float"], to=TensorProto.FLOAT),
        node("Div", ["ids_float", "tokens_float"], ["text"]),
        node("ReduceMean", ["faces", "axes_123"], ["light"], keepdims=0),
        node("Div", ["light", "white"], ["faces_each"]),
        node("ReduceMean", ["pieces", "axes_12"], ["power"], keepdims=0),
        node("Add", ["power", "unit"], ["power_1"]),
        node("Log", ["power_1"], ["pieces_each"]),
    ]
    for modality, each, index in (("visual", "faces_each", "face_index"), ("audio", "pieces_each", "piece_index")):
        nodes += [
            node("Concat", ["nothing", each], [f"{each}_0"], axis=0),
            node("Add", [index, "one"], [f"{index}_1"]),
            node("Gather", [f"{each}_0", f"{index}_1"], [f"{each}_slots"]),
            node("ReduceSum", [f"{each}_slots", "one"], [f"{each}_sum"]),
            node("Cast", [f"{index}_1"], [f"{index}_float"], to=TensorProto.FLOAT),
            node("Clip", [f"{index}_float", "zero", "unit"], [f"{index}_there"]),
            node("ReduceSum", [f"{index}_there", "one"], [f"{index}_count"]),
            node("Max", [f"{index}_count", "unit"], [f"{index}_slots"]),
            node("Div", [f"{each}_sum", f"{index}_slots"], [modality]),
        ]
    nodes += [node("MatMul", [m, f"weight_{m}"], [f"logits_{m}"]) for m in MODALITIES]
    nodes.append(node("Sum", [f"logits_{m}" for m in MODALITIES], ["logits"]))
    constants = {
        "one": np.array([1], np.int64),
        "axes_123": np.array([1, 2, 3], np.int64),
        "axes_12": np.array([1, 2], np.int64),
        "white": np.array(255, np.float32),
        "unit": np.array(1, np.float32),
        "zero": np.array(0, np.float32),
        "nothing": np.zeros(1, np.float32),
        **{f"weight_{m}": np.array([WEIGHTS[m]], np.float32) for m in MODALITIES},
    }
    kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, kinds[spec.dtype], spec.axes) for spec in specs]
        for specs in (INPUTS, OUTPUTS)
    )
    return _model(nodes, inputs, outputs, constants)


def _model(nodes, inputs, outputs, constants: dict[str, NDArray]) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "sample", inputs, outputs, initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_bundle(folder: Path) -> None:
    """The bundle, by hand: no PyTorch system stands behind it."""
    folder.mkdir(parents=True)
    (folder / "faces").mkdir()
    for name, size in (("pnet", 12), ("rnet", 24), ("onet", 48)):
        (folder / "faces" / f"{name}.onnx").write_bytes(face_net(size).SerializeToString(deterministic=True))
    write_tokenizer(folder / "tokenizer")
    (folder / "model.onnx").write_bytes(graph().SerializeToString(deterministic=True))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        system="sample",
        form="by hand",
        dataset="sample",
        labels=LABELS,
        thresholds=(0.5,) * len(LABELS),
        modalities=MODALITIES,
        fusion_weights=dict.fromkeys(MODALITIES, 1.0),
        preprocessing=Preprocessing(faces=FaceSpec(min_face=42)),
        graphs={"fp32": GraphSpec("model.onnx", "fp32", OPSET, INPUTS, OUTPUTS)},
        files=hash_files(folder),
    )
    write_manifest(folder, manifest, folder)


def write_sample(folder: Path) -> None:
    """second.mp4, bundle and what the one makes of the other (expected.json)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(folder / "second.mp4")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        write_bundle(Path(work) / "bundle")
        (Path(work) / "bundle").rename(folder / "bundle")
    with Predictor(folder / "bundle", backend="onnxruntime", threads=1) as predictor:
        (prediction,) = predictor.predict(folder / "second.mp4", text=TEXT)
    expected = {"text": TEXT, "logits": prediction.logits, "faces": len(prediction.faces)}
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="ascii")


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "cli" / "sample")
