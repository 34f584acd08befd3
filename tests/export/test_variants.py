"""Variants are there whole or not at all, and belong to their graph, whatever is killed or races at that very point."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from variants import with_graph

from mmx.export import bundle_writer, folders, variant_writer
from mmx.export.bundle_writer import bundle_folder
from mmx.export.precision.view import read_graph
from mmx.export.variant_writer import made_now, new_variant
from mmx.runtime.backends import open_backend
from mmx.runtime.bundle import Bundle, BundleReplaced
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.files import sha256_of
from mmx.runtime.records import GraphRecord


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """A bundle of the test's own, without variants."""
    return Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "ckpt.mmx"))


def graph(bundle: Bundle, note: str = "") -> onnx.ModelProto:
    model = read_graph(bundle.graph().path)
    model.doc_string = note
    return model


def export_over(bundle: Bundle, *, other_graph: bool = False) -> None:
    """Export again over the bundle, with other thresholds; and with another graph, if that is wanted."""
    content = json.loads((bundle.path / "manifest.json").read_text())
    content["thresholds"] = [0.25] * len(content["labels"])
    with bundle_folder(bundle.path) as folder:
        for name in content["files"]:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle.path / name, folder / name)
        if other_graph:
            onnx.save(graph(bundle, "another"), folder / "model.onnx")
            content["files"]["model.onnx"] = sha256_of(folder / "model.onnx")
        (folder / "manifest.json").write_text(json.dumps(content))


def left_over(bundle: Bundle) -> list[str]:
    """What a finished command must not leave: hidden folders in the bundle, unfinished ones beside it."""
    hidden = [path.name for path in bundle.path.glob("variants/.*")]
    return hidden + [path.name for path in bundle.path.parent.glob("*.tmp-*")]


def test_a_variant_is_found_with_its_record_and_the_manifest_is_untouched(bundle: Bundle) -> None:
    before = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    added = with_graph(bundle, "int8", graph(bundle, "made"), recipe={"method": "mse"}, verification={"worst": 0.5})
    found = Bundle.open(bundle.path).graph("int8")
    assert (
        added.identity == bundle.identity
        and added.precisions == ("fp32", "int8") == Bundle.open(bundle.path).precisions
    )
    assert found.path.parent.parent == bundle.path / "variants" and found.sha256 == sha256_of(found.path)
    assert found.spec.parity == {"worst": 0.5} and found.spec.inputs == bundle.manifest.graphs["fp32"].inputs
    assert found.variant is not None and found.variant.record.source == bundle.graph_sha256
    assert {path: path.read_bytes() for path in before} == before and not left_over(bundle)


def test_the_newest_takes_the_place_of_the_older_and_of_what_was_made_from_it(bundle: Bundle) -> None:
    bundle = with_graph(bundle, "int8", graph(bundle, "one"))
    bundle = with_graph(bundle, "fp8", graph(bundle), made_from={"int8": bundle.graph("int8").sha256})
    bundle = with_graph(bundle, "fp16", graph(bundle))
    assert bundle.precisions == ("fp32", "fp16", "fp8", "int8")
    bundle = with_graph(bundle, "int8", graph(bundle, "two"))
    assert bundle.precisions == ("fp32", "fp16", "int8") and not bundle.passed_over
    assert onnx.load(bundle.graph("int8").path).doc_string == "two"


def test_two_that_add_at_once_both_succeed(bundle: Bundle) -> None:
    """The very same twice, and another in between: the newest is the bundle's."""
    model = graph(bundle, "same")
    about = {"precision": "int8", "source": bundle.graph_sha256, "files": {}, "graph": "g.onnx", "opset": 20}
    with new_variant(bundle) as one, new_variant(bundle) as two, new_variant(bundle) as three:
        for folder in (one, two):
            onnx.save(model, folder.path / "g.onnx")
        onnx.save(graph(bundle, "other"), three.path / "g.onnx")
        first = one.publish("int8", GraphRecord(**about, **made_now()))
        second = two.publish("int8", GraphRecord(**about, **made_now()))
        assert first.name == second.name
        three.publish("int8", GraphRecord(**about, **made_now()))
    bundle = Bundle.open(bundle.path)
    assert onnx.load(bundle.graph("int8").path).doc_string == "other" and len(bundle.variants) == 1
    assert not left_over(bundle)


KILL = """
import os, signal, sys
from mmx.export import variant_writer
from mmx.export.precision.variant import add_graph
from mmx.export.precision.view import read_graph
from mmx.runtime.bundle import Bundle
bundle = Bundle.open(sys.argv[1])
name, after = sys.argv[2], int(sys.argv[3])
owner, name = (os, name) if name == "rename" else (variant_writer, name)
call = getattr(owner, name)
def dying(*args, **kwargs):
    if after:
        call(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, dying)
model = read_graph(bundle.graph().path)
model.doc_string = "second"
with variant_writer.new_variant(bundle) as folder:
    add_graph(folder, bundle, "int8-fp16", model, **variant_writer.made_now())
"""


@pytest.mark.parametrize(
    ("point", "after", "holds"),
    [
        ("new_folder", 1, "first"),
        ("sync_files", 0, "first"),
        ("rename", 0, "first"),
        ("rename", 1, "second"),
        ("_remove_older", 0, "second"),
        ("_remove_older", 1, "second"),
    ],
)
def test_a_kill_at_any_point_of_adding_leaves_a_bundle_that_opens(
    bundle: Bundle, point: str, after: int, holds: str
) -> None:
    """As issue 12.1 (a): with what was there, or what was added, and it can be exported over."""
    with_graph(bundle, "int8-fp16", graph(bundle, "first"))
    killed = subprocess.run([sys.executable, "-c", KILL, bundle.path, point, str(after)], check=False)
    assert killed.returncode == -signal.SIGKILL
    opened = Bundle.open(bundle.path)
    assert onnx.load(opened.graph("int8-fp16").path).doc_string == holds and not opened.passed_over
    export_over(opened)
    again = Bundle.open(bundle.path)
    assert again.manifest.thresholds[0] == 0.25 and again.precisions == ("fp32", "int8-fp16")
    with_graph(again, "fp16", graph(again))  # which clears away what the kill left
    assert not left_over(again)


@pytest.mark.parametrize("other_graph", [False, True])
@pytest.mark.parametrize("point", ["before", "after"])
def test_exporting_while_a_graph_is_added(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, point: str, other_graph: bool
) -> None:
    """As issue 12.1 (b): never the old manifest with the new graphs; whoever lost says so."""
    rename = os.rename

    def racing(*names: Any, **options: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        if point == "before":
            export_over(bundle, other_graph=other_graph)
        rename(*names, **options)
        if point == "after":
            export_over(bundle, other_graph=other_graph)

    with new_variant(bundle) as folder:  # as add_graph does it, with the race at its rename
        onnx.save(graph(bundle), folder.path / "g.onnx")
        record = GraphRecord(
            precision="fp16", source=bundle.graph_sha256, files={}, graph="g.onnx", opset=20, **made_now()
        )
        monkeypatch.setattr(os, "rename", racing)
        kept = point == "after" and not other_graph
        if kept:
            folder.publish("fp16", record)
        else:
            with pytest.raises(BundleReplaced):
                folder.publish("fp16", record)
        monkeypatch.setattr(variant_writer.Bundle, "_require_same", lambda self: None)  # it would say so as well
    monkeypatch.undo()
    opened = Bundle.open(bundle.path)
    assert opened.manifest.thresholds[0] == 0.25 and (opened.graph_sha256 != bundle.graph_sha256) == other_graph
    assert opened.precisions == (("fp32", "fp16") if kept else ("fp32",))
    with pytest.raises(BundleReplaced, match="was replaced while it was used"):
        bundle.refreshed()


def test_a_graph_that_is_added_just_before_the_swap_is_kept(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the export has looked for variants, and before its folder has the name."""
    place = folders.place

    def late(folder: Path, target: Path) -> Path | None:
        with_graph(bundle, "int8", graph(bundle, "late"))
        return place(folder, target)

    monkeypatch.setattr(bundle_writer, "place", late)
    export_over(bundle)
    opened = Bundle.open(bundle.path)
    assert opened.manifest.thresholds[0] == 0.25 and onnx.load(opened.graph("int8").path).doc_string == "late"


def test_exporting_again_keeps_the_variants_of_an_unchanged_graph_and_no_others(bundle: Bundle) -> None:
    bundle = with_graph(bundle, "int8", graph(bundle, "kept"))
    export_over(bundle)
    opened = Bundle.open(bundle.path)
    assert onnx.load(opened.graph("int8").path).doc_string == "kept" and opened.identity != bundle.identity
    export_over(opened, other_graph=True)
    opened = Bundle.open(bundle.path)
    assert opened.precisions == ("fp32",) and not opened.passed_over and not left_over(opened)


def edit(record: Path, **fields: Any) -> None:
    record.write_text(json.dumps(json.loads(record.read_text()) | fields))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "record.json").write_text("{"), "not readable JSON"),
        (lambda folder: (folder / "record.json").write_text("[" * 100_000), "not readable JSON"),
        (lambda folder: (folder / "record.json").write_text('{"a":' * 500 + "1" + "}" * 500), "nested deeper than"),
        (lambda folder: (folder / "record.json").unlink(), "has no record.json"),
        (lambda folder: edit(folder / "record.json", schema_version=9), "schema_version 9"),
        (lambda folder: edit(folder / "record.json", kind="spell"), "kind is 'spell'"),
        (lambda folder: edit(folder / "record.json", opset=10**30), "more than 64 bits"),
        (lambda folder: edit(folder / "record.json", source="f" * 64), "made from the graph ffffffffffff"),
        (lambda folder: edit(folder / "record.json", precision="\x1b[31m"), "printable"),
        (lambda folder: edit(folder / "record.json", graph="../model.onnx"), "no graph"),
        (lambda folder: (folder / "model.int8.onnx").unlink(), "model.int8.onnx is missing"),
        (lambda folder: (folder / "extra").write_text("?"), "extra is not in its record.json"),
        (lambda folder: (folder / "link").symlink_to("/etc/passwd"), "not a plain file"),
    ],
)
def test_what_cannot_be_used_is_passed_over_and_says_why(bundle: Bundle, damage: Any, reason: str) -> None:
    """As issue 12.1 (d): it does not end ``auto``, which runs the FP32 graph on the CPU all the same."""
    added = with_graph(bundle, "int8", graph(bundle))
    damage(added.graph("int8").path.parent)
    opened = Bundle.open(bundle.path)
    (passed,) = opened.passed_over
    assert reason in passed.reason and "\n" not in passed.reason and opened.precisions == ("fp32",)
    with open_backend(opened, threads=1, utterances=1) as backend:
        assert backend.precision == "fp32"
    with pytest.raises(UsageError, match="has no int8 graph"):
        opened.graph("int8")


def test_changed_bytes_and_weights_elsewhere_are_not_run(bundle: Bundle) -> None:
    added = with_graph(bundle, "int8", graph(bundle))
    path = added.graph("int8").path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BadDataError, match=r"model\.int8\.onnx was changed"):
        Bundle.open(bundle.path).graph("int8")
    model = graph(bundle)
    tensor = next(t for t in model.graph.initializer if t.HasField("raw_data") and len(t.raw_data) > 1000)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../model.onnx")
    with new_variant(bundle) as folder:
        (folder.path / "g.onnx").write_bytes(model.SerializeToString())
        record = GraphRecord(
            precision="int8", source=bundle.graph_sha256, files={}, graph="g.onnx", opset=20, **made_now()
        )
        folder.publish("int8", record)
    with pytest.raises(BadDataError, match="keeps weights in"):
        Bundle.open(bundle.path).graph("int8")


def test_a_bundle_that_cannot_be_written_is_one_line_and_still_runs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reject(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", reject)
    with pytest.raises(UsageError, match=r"variants cannot be written: Read-only file system"), new_variant(bundle):
        raise AssertionError("must not be reached")
    with open_backend(Bundle.open(bundle.path), "onnxruntime", threads=1) as backend:
        assert backend.precision == "fp32"


FULL = """
import resource, sys
from mmx.cli.main import print_error
from mmx.export.precision.view import read_graph
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import MmxError
from variants import with_graph
bundle = Bundle.open(sys.argv[1])
model = read_graph(bundle.graph().path)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with_graph(bundle, "int8", model)
except MmxError as e:
    print_error(e.message, e.hint)
    sys.exit(e.exit_code)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(bundle: Bundle) -> None:
    """A limit on the size of files stands in for it: the write fails in the middle, as it does on a full disk."""
    run = [sys.executable, "-c", FULL, bundle.path]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(run, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == EnvironmentMissing.exit_code, done.stderr
    assert "cannot be written: File too large" in done.stderr and "Traceback" not in done.stderr
    assert Bundle.open(bundle.path).precisions == ("fp32",) and not left_over(bundle)


def test_a_process_keeps_to_one_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is given the identity; what was opened is never run with the files of another."""
    assert Bundle.open(bundle.path, expect=bundle.identity).identity == bundle.identity
    opened = Bundle.open(bundle.path)
    export_over(bundle)
    with pytest.raises(BundleReplaced, match="was replaced while it was used"):
        Bundle.open(bundle.path, expect=bundle.identity)
    with pytest.raises(BundleReplaced):
        open_backend(opened, "onnxruntime", threads=1)  # the same graph, of a bundle with other thresholds
    current = Bundle.open(bundle.path)
    with open_backend(current, "onnxruntime", threads=1) as backend:  # goes on when it is replaced later
        export_over(current, other_graph=True)
        assert backend.inputs == current.manifest.graphs["fp32"].input_names


def test_opening_while_an_export_swaps_gives_one_or_the_other(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = Bundle._checked
    swaps = []

    def swapping(self: Bundle, beside: bool) -> Bundle:
        if not swaps:
            swaps.append(1)
            export_over(bundle, other_graph=True)
        return checked(self, beside)

    monkeypatch.setattr(Bundle, "_checked", swapping)
    opened = Bundle.open(bundle.path)
    assert opened.manifest.thresholds[0] == 0.25 and opened.graph().sha256 == sha256_of(bundle.path / "model.onnx")
