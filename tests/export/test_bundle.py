"""Opening a bundle: a good one opens; a damaged or hostile one is rejected in one line that names the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import onnx
import pytest

from mmx.runtime.backends import open_backend
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, MmxError, UsageError
from mmx.runtime.files import sha256_of
from mmx.runtime.manifest import Manifest
from mmx.runtime.records import EngineRecord, GraphRecord, ProbabilitiesRecord


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "ckpt.mmx"))


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    change(content)
    (bundle / "manifest.json").write_text(json.dumps(content))


def test_a_good_bundle_opens(tiny_bundle: Path):
    bundle = Bundle.open(tiny_bundle)
    assert bundle.manifest.labels == ("ang", "exc", "fru", "hap", "neu", "sad")
    assert bundle.graph().path == tiny_bundle / "model.onnx"
    assert bundle.tokenizer_dir == tiny_bundle / "tokenizer"
    assert bundle.face_nets is not None and all(net.is_file() for net in bundle.face_nets.values())
    with pytest.raises(UsageError, match=r"no fp16 graph.*fp32"):
        bundle.graph("fp16")


def test_a_bundle_without_extras_says_so_with_none(bundle: Path):
    shutil.rmtree(bundle / "tokenizer")
    shutil.rmtree(bundle / "faces")
    edit_manifest(bundle, lambda m: m.update(files={k: v for k, v in m["files"].items() if "/" not in k}))
    opened = Bundle.open(bundle)
    assert opened.tokenizer_dir is None and opened.face_nets is None


def flip_a_byte(bundle: Path) -> None:
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(content)


def add_a_file(bundle: Path) -> None:
    (bundle / "faces" / "extra.bin").write_bytes(b"?")


def link_out(bundle: Path) -> None:
    (bundle / "tokenizer" / "spiece.model").rename(bundle.parent / "outside")
    (bundle / "tokenizer" / "spiece.model").symlink_to(bundle.parent / "outside")


def link_a_folder_out(bundle: Path) -> None:
    (bundle / "faces").rename(bundle.parent / "faces")
    (bundle / "faces").symlink_to(bundle.parent / "faces")


def link_the_manifest_out(bundle: Path) -> None:
    (bundle / "manifest.json").rename(bundle.parent / "manifest.json")
    (bundle / "manifest.json").symlink_to(bundle.parent / "manifest.json")


def make_a_pipe(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")


def truncate_the_graph(bundle: Path) -> None:
    """With the right hash, so that the graph's own check must see it."""
    data = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(data[: len(data) // 2])
    relist(bundle)


def weights_outside(bundle: Path) -> None:
    """With the right hash: external data that climbs out of the folder."""
    keep_weights_in(bundle, "../outside.bin")


def weights_in_an_unlisted_file(bundle: Path) -> None:
    keep_weights_in(bundle, "weights.bin")


def weights_at_an_absolute_path(bundle: Path) -> None:
    keep_weights_in(bundle, str(bundle.parent / "outside.bin"))


def keep_weights_in(bundle: Path, location: str) -> None:
    model = onnx.load(bundle / "model.onnx")
    tensor = next(t for t in model.graph.initializer if t.HasField("raw_data") and len(t.raw_data) > 1000)
    (bundle.parent / "outside.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    relist(bundle)


def relist(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["files"].update({"model.onnx": sha256_of(bundle / "model.onnx")}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_byte, "model.onnx was changed"),
        (add_a_file, "extra.bin is not in the manifest"),
        (lambda b: (b / "faces" / "rnet.onnx").unlink(), "rnet.onnx is missing"),
        (lambda b: (b / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda b: (b / "manifest.json").write_text("{"), "not readable JSON"),
        (lambda b: (b / "manifest.json").write_text("[" * 100_000), "not readable JSON"),
        (lambda b: (b / "manifest.json").write_bytes(b"\xff\xfe{}"), "not readable JSON"),
        (lambda b: os.truncate(b / "manifest.json", 2**30), "larger than 16 MB"),
        (link_out, "spiece.model is a symbolic link"),
        (link_a_folder_out, "faces is a symbolic link"),
        (link_the_manifest_out, "manifest.json is not a plain file"),
        (make_a_pipe, "model.onnx is not a plain file"),
        (truncate_the_graph, "model.onnx is not an ONNX file"),
        (weights_outside, r"weights in '\.\./outside\.bin'"),
        (weights_in_an_unlisted_file, r"weights in 'weights\.bin'"),
        (weights_at_an_absolute_path, r"weights in '/"),
    ],
)
def test_damage_is_rejected(bundle: Path, damage: Callable[[Path], None], words: str):
    damage(bundle)
    with pytest.raises(BadDataError, match=words) as error:
        Bundle.open(bundle)
    assert "\n" not in error.value.message and error.value.hint


@pytest.mark.parametrize(
    "name", ["../up", "/etc/passwd", "a/../../b", "./a", "a//b", "a\\b", "C:x", "", "manifest.json"]
)
def test_a_listed_path_that_leaves_the_bundle_is_rejected(bundle: Path, name: str):
    edit_manifest(bundle, lambda m: m["files"].update({name: "0" * 64}))
    with pytest.raises(BadDataError, match="files:"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(schema_version=3),
        lambda m: m.update(schema_version="1"),
        lambda m: m.update(labels=[]),
        lambda m: m.update(labels=m["labels"][:5]),
        lambda m: m.update(thresholds=[2.0] * 6),
        lambda m: m.update(graphs={"fp16": m["graphs"]["fp32"]}),
        lambda m: m["graphs"]["fp32"].update(file="../model.onnx"),
        lambda m: m["graphs"]["fp32"].update(file="tokenizer/spiece.model"),
        lambda m: m["fusion_weights"].pop("text"),
        lambda m: m["fusion_weights"].update(text=float("inf")),
        lambda m: m["preprocessing"]["video"].update(interval_s=0),
        lambda m: m["preprocessing"]["video"].update(interval_s=float("nan")),
        lambda m: m["preprocessing"]["mel"].update(hop=0),
        lambda m: m["preprocessing"]["faces"].update(factor=1.0),
        lambda m: m["preprocessing"]["text"].update(max_tokens=1),
        lambda m: m["preprocessing"].update(max_segment_s=-1),
        lambda m: m.update(surprise=1),
        lambda m: m.update(thresholds=[10**19] * 6),
        lambda m: m.update(thresholds=[float("nan")] * 6),
        lambda m: m["fusion_weights"].update(text=1e308),
        lambda m: m["preprocessing"]["video"].update(interval_s=10**19),
        lambda m: m["preprocessing"]["video"].update(every_nth=-1),
        lambda m: m["preprocessing"]["video"].update(no_face="maybe"),
        lambda m: m["preprocessing"]["faces"].update(mean=[159.0, 111.0, 102.0]),
        lambda m: m["preprocessing"]["faces"].update(size=64),
        lambda m: m["preprocessing"]["faces"].update(factor=0.9999),
        lambda m: m["preprocessing"]["faces"].update(thresholds=[10**19, 0.7, 0.7]),
        lambda m: m["preprocessing"]["faces"].update(resample="lanczos"),
        lambda m: m["preprocessing"]["mel"].update(n_fft=2**20),
        lambda m: m["preprocessing"]["mel"].update(n_mels=64),
        lambda m: m["preprocessing"]["mel"].update(columns=2**20),
        lambda m: m["preprocessing"]["mel"].update(hop=16_000),
        lambda m: m["preprocessing"]["mel"].update(sample_rate=10**19),
        lambda m: m["preprocessing"]["text"].update(cls_id=10**19),
        lambda m: m["preprocessing"].update(max_segment_s=1e9),
        lambda m: m["preprocessing"].update(compat="upsteam"),
        lambda m: m["config"]["text"].update(positions="many"),
        lambda m: m["config"]["text"].update(vocabulary=10**12),
        lambda m: m.update(config=1e400),
        lambda m: m.update(labels=["\x1b]0;ha\x07", *m["labels"][1:]]),
        lambda m: m.update(labels=["\u202eevil", *m["labels"][1:]]),
        lambda m: m.update(system="ours\n"),
        lambda m: m["graphs"]["fp32"]["outputs"][0].update(axes=["batch", 5]),
        lambda m: m["graphs"]["fp32"]["outputs"][0].update(dtype="float16"),
        lambda m: m["graphs"]["fp32"]["inputs"][2].update(axes=["faces", 3, 64, 64]),
        lambda m: m["graphs"]["fp32"].update(outputs=m["graphs"]["fp32"]["outputs"][:2]),
        lambda m: m.pop("labels"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_rejected(bundle: Path, change: Callable[[dict[str, Any]], None]):
    edit_manifest(bundle, change)
    with pytest.raises(BadDataError, match=r"manifest\.json"):
        Bundle.open(bundle)


def test_what_is_no_bundle_folder_is_a_usage_error(tmp_path: Path, tiny_checkpoint: Path):
    with pytest.raises(UsageError, match="does not exist"):
        Bundle.open(tmp_path / "nothing.mmx")
    with pytest.raises(UsageError, match="is a file") as error:
        Bundle.open(tiny_checkpoint)
    assert error.value.hint == f"mmx export {tiny_checkpoint}"


def test_what_an_interrupted_export_left_is_rejected_even_if_complete(bundle: Path):
    with pytest.raises(MmxError, match="interrupted export"):
        Bundle.open(bundle.rename(bundle.with_name("ckpt.mmx.tmp-0badcafe")))


def test_without_verify_only_the_hashes_are_skipped(bundle: Path):
    content = (bundle / "tokenizer" / "spiece.model").read_bytes()
    (bundle / "tokenizer" / "spiece.model").write_bytes(content + b"?")
    Bundle.open(bundle, verify=False)
    weights_outside(bundle)
    with pytest.raises(BadDataError, match="keeps weights"):
        Bundle.open(bundle, verify=False)


def test_a_value_that_is_rejected_is_named(bundle: Path):
    edit_manifest(bundle, lambda m: m["preprocessing"]["faces"].update(mean=[1.0, 2.0, 3.0]))
    with pytest.raises(BadDataError, match=r"preprocessing: faces: unknown field 'mean'"):
        Bundle.open(bundle)
    edit_manifest(bundle, lambda m: (m["preprocessing"]["faces"].pop("mean"), m["preprocessing"].update(compat="x")))
    with pytest.raises(BadDataError, match=r"compat: 'x' is not one of: default, upstream"):
        Bundle.open(bundle)


def numbers_of(kind: Any, where: str) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Every number in a dataclass's types, with its bounds."""
    bounds: tuple[Any, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *rest = get_args(kind)
        bounds = tuple(rest)
    if kind in (int, float):
        yield where, kind, bounds
    elif is_dataclass(kind):
        for name, each in get_type_hints(kind, include_extras=True).items():
            yield from numbers_of(each, f"{where}.{name}")
    else:
        for each in get_args(kind):
            yield from numbers_of(each, where)


@pytest.mark.parametrize("kind", [Manifest, GraphRecord, EngineRecord, ProbabilitiesRecord])
def test_every_number_that_is_read_has_a_bound(kind: type):
    """A new field without one fails here."""
    counted = {"EngineRecord.layers", "EngineRecord.weights"}  # 64 bits, only ever printed
    found = list(numbers_of(kind, kind.__name__))
    assert len(found) > 1
    assert [where for where, _, bounds in found if not bounds and where not in counted] == []


@pytest.mark.parametrize(("kind", "found"), [("Cast", "float64"), ("Flatten", "float32")])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_graph_that_is_not_what_the_manifest_lists_is_not_run(bundle: Path, kind: str, found: str, engine: str):
    """An output of another type, or of another shape: one row for the whole batch."""
    model = onnx.load(bundle / "model.onnx")
    maker = next(node for node in model.graph.node if "logits" in node.output)
    maker.output[list(maker.output).index("logits")] = "raw"
    options = {"to": onnx.TensorProto.DOUBLE} if kind == "Cast" else {"axis": 0}
    model.graph.node.append(onnx.helper.make_node(kind, ["raw"], ["logits"], "last", **options))
    (output,) = (value for value in model.graph.output if value.name == "logits")
    output.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE if kind == "Cast" else onnx.TensorProto.FLOAT
    output.type.tensor_type.ClearField("shape")
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    relist(bundle)
    with pytest.raises(BadDataError, match=rf"output logits is {found} .*, not float32"):
        open_backend(Bundle.open(bundle), engine, threads=1)
