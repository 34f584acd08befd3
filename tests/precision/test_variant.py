"""The whole way on a bundle: make a variant, verify it, add it; and that the bundle survives whatever happens then."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from mmx.export.precision.current import RECIPE, is_current, sentence
from mmx.export.precision.rounded import rounded
from mmx.export.precision.samples import utterances
from mmx.export.precision.sensitivity import Part, SensitivitySearch
from mmx.export.precision.session import cpu_session
from mmx.export.precision.variant import Variant, ensure_variant, make_variant, reasons
from mmx.export.precision.verification import Exact, require_labels
from mmx.export.precision.view import GraphView, read_graph
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, ParityError
from mmx.runtime.variants import list_variants


@pytest.fixture(scope="module")
def made(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with an FP16 graph, verified on 16 utterances."""
    path = tmp_path_factory.mktemp("variant") / "tiny.mmx"
    shutil.copytree(tiny_bundle, path)
    bundle, new = ensure_variant(Bundle.open(path), "fp16", samples=16)
    assert new
    return bundle


@pytest.fixture
def fresh(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    shutil.copytree(tiny_bundle, tmp_path / "tiny.mmx")
    return Bundle.open(tmp_path / "tiny.mmx")


def test_the_bundle_lists_the_variant_with_what_was_measured(made: Bundle) -> None:
    again = Bundle.open(made.path)
    graph = again.graph("fp16")  # every hash
    parity = graph.spec.parity
    assert graph.variant is not None and graph.variant.record.source == again.graph_sha256
    assert graph.variant.record.recipe == {
        "rules": RECIPE,
        "samples": 16,
        "seconds": 1800,
        "tolerance": 1e-2,
        "choices": {},
    }
    assert parity["samples"] == 16 and parity["decisions"] == 16 * 6
    assert 0 < parity["mean_error"] < parity["max_error"] <= parity["tolerance"] == 1e-2
    assert parity["max_error"] <= parity["outputs"]["logits"] and set(parity["scales"]) == {"16", "64"}
    assert all(error is not None for error in parity["scales"].values())
    assert parity["kept_fp32"]["square"] > 0 and parity["half_nodes"] > 100
    assert "16 samples" in sentence(parity)
    assert ensure_variant(again, "fp16", samples=16) == (again, False)


def test_the_file_itself_runs_and_agrees(made: Bundle) -> None:
    """The variant as written, in ONNX Runtime as it comes: valid, and the same contract."""
    sessions = [
        ort.InferenceSession(made.graph(name).path, providers=["CPUExecutionProvider"]) for name in ("fp32", "fp16")
    ]
    for side in ("get_inputs", "get_outputs"):
        fp32, fp16 = ([(x.name, x.type, x.shape) for x in getattr(s, side)()] for s in sessions)
        assert fp16 == fp32
    for inputs in utterances(made.manifest, 8, 4, seed=7):
        want, got = (session.run(["logits"], inputs)[0] for session in sessions)
        np.testing.assert_allclose(got, want, atol=1e-2)


def test_weights_are_half_and_every_kept_node_says_why(made: Bundle) -> None:
    model = read_graph(made.graph("fp16").path)
    sizes = {TensorProto.FLOAT16: 0, TensorProto.FLOAT: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    assert sizes[TensorProto.FLOAT16] > 9 * sizes[TensorProto.FLOAT]
    said = reasons(model)
    assert len(said) == sum(made.graph("fp16").spec.parity["kept_fp32"].values())
    assert all(len(why) > len("FP32, x: ") for _, _, why in said)


def test_bfloat16_too(fresh: Bundle) -> None:
    bundle, _ = ensure_variant(fresh, "bf16", samples=16)
    parity = bundle.graph("bf16").spec.parity
    assert parity["tolerance"] == 0.1 and 1e-4 < parity["max_error"] < 0.1
    onnx.checker.check_model(read_graph(bundle.graph("bf16").path))


def test_too_inaccurate_is_rejected_and_leaves_the_bundle_as_it_was(
    fresh: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SensitivitySearch, "_ranked", lambda _self: [])
    before = {path: path.read_bytes() for path in fresh.path.rglob("*") if path.is_file()}
    with pytest.raises(ParityError, match=r"logits are .* off FP32 on 4 samples"):
        ensure_variant(fresh, "fp16", samples=16, tolerance=1e-6)
    assert {path: path.read_bytes() for path in fresh.path.rglob("*") if path.is_file()} == before


def test_sensitive_parts_stay_fp32_until_the_tolerance_is_met(fresh: Bundle) -> None:
    """A tolerance that plain FP16 misses: more stays FP32, each node with the error it would cause."""
    bundle, _ = ensure_variant(fresh, "fp16", samples=16, tolerance=1e-3)
    parity = bundle.graph("fp16").spec.parity
    assert parity["max_error"] <= 1e-3 and parity["kept_fp32"]["sensitive"] > 0
    assert any("moves the logits by up to" in why for _, _, why in reasons(read_graph(bundle.graph("fp16").path)))


def test_a_table_is_stored_in_half_however_sensitive_its_part_is(
    fresh: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a narrow system the words' table is most of the weights."""
    view = GraphView(read_graph(fresh.graph().path))
    monkeypatch.setattr(SensitivitySearch, "_ranked", lambda _self: [Part(range(len(view.nodes)), 1.0, 1.0)])
    probe = next(utterances(fresh.manifest, 1, 1))
    search = SensitivitySearch(view, "fp16", {}, Exact(view.model, ()), probe, lambda what, share: None)
    assert search.step() and not search.step()
    halves = {t.name for t in search.converted().model.graph.initializer if t.data_type == TensorProto.FLOAT16}
    assert halves and all("embeddings" in name for name in halves)


def test_a_sample_that_tuning_did_not_foresee_keeps_more_in_fp32(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuning sees quiet utterances only; the verification then meets others, and must not give up at the first."""
    searches = []
    run = SensitivitySearch.run

    def not_at_first(self: SensitivitySearch, enough: Any) -> None:
        searches.append(len(self.kept))
        if len(searches) > 1:
            run(self, enough)

    monkeypatch.setattr(SensitivitySearch, "run", not_at_first)
    batches = list(utterances(made.manifest, 8, 4))
    model = read_graph(made.graph("fp32").path)
    again = make_variant(model, "fp16", lambda: batches, batches, what="tiny", tolerance=1e-3)
    assert len(searches) > 1 and again.accuracy.max_error <= 1e-3 and again.accuracy.samples == 8
    assert again.summary["kept_fp32"]["sensitive"] > 0


def test_a_label_that_flips_keeps_more_in_fp32_until_none_does(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A threshold between the FP32 logit and the FP16 one of some sample; the tolerance is met all along."""
    batches = list(utterances(made.manifest, 8, 4, seed=3))
    model = read_graph(made.graph("fp32").path)
    plain = make_variant(model, "fp16", lambda: batches, batches, what="tiny")
    assert "sensitive" not in plain.summary["kept_fp32"]
    want, got = (
        np.concatenate([session.run(["logits"], inputs)[0] for inputs in batches])
        for session in (cpu_session(model), cpu_session(rounded(plain.model)))
    )
    row, label = np.unravel_index(np.abs(got - want).argmax(), want.shape)
    thresholds = np.full(6, 0.5)
    middle = (want[row, label] + got[row, label]) / 2
    thresholds[label] = 1 / (1 + np.exp(-middle))

    def with_flips(flips: int | None) -> Variant:
        return make_variant(
            model, "fp16", lambda: batches, batches, what="tiny", thresholds=list(thresholds), flips=flips
        )

    careless = with_flips(None).accuracy
    distance = abs(want[row, label] - middle)
    assert careless.label_flips >= 1 and careless.nearest_flip >= distance - 1e-6
    careful = with_flips(0)
    assert careful.accuracy.label_flips == 0 and careful.accuracy.samples == 8
    assert careful.summary["kept_fp32"]["sensitive"] > 0
    monkeypatch.setattr(SensitivitySearch, "_ranked", lambda _self: [])
    flipped = with_flips(0).accuracy  # nothing is left to keep: it is reported, on all samples
    assert flipped.label_flips == careless.label_flips and flipped.samples == 8
    assert "from its threshold" in sentence(flipped.to_dict() | {"kept_fp32": {}})
    with pytest.raises(ParityError, match=r"tiny: \d of 48 labels flip"):
        require_labels(flipped, "tiny", 0)
    require_labels(flipped, "tiny", flipped.label_flips)


def test_a_changed_graph_or_a_tighter_tolerance_makes_it_stale(made: Bundle) -> None:
    assert is_current(made, "fp16", 1e-2) and is_current(made, "fp16", 1e-2, 0)
    assert not is_current(made, "fp16", 1e-9) and not is_current(made, "fp16", 1e-2, -1)
    files = {**made.manifest.files, "model.onnx": "0" * 64}
    other = replace(made, manifest=replace(made.manifest, files=files))
    found, (passed,) = list_variants(made.path / "variants", other.graph_sha256)
    assert not found and "it was made from the graph" in passed.reason and passed.precision == "fp16"


def test_a_graph_that_mmx_did_not_make(tmp_path: Path) -> None:
    import precision_graphs as graphs

    random = np.random.default_rng(0)
    model = graphs.attention(16, -np.inf)
    batches = [{"x": random.normal(size=(1, 8, 16)).astype(np.float32)} for _ in range(4)]
    made = make_variant(model, "fp16", lambda: batches, batches[:2], what="attention.onnx", tolerance=0.1)
    assert made.accuracy.samples == 4 and made.accuracy.max_error < 1e-2
    assert made.summary["finite_masks"] == ["mask"]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(BadDataError, match=r"broken\.onnx"):
        read_graph(broken)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["v2em", "fe2e", "v2em-visual+focal", "rfam+nest", "lf-lstm", "lf-trans", "mult"])
def test_every_system_has_an_fp16_form(system: str, tmp_path: Path) -> None:
    """In its tiny size: towers of every kind, recurrent systems, cross-modal attention."""
    from mmx.export.exporter import export_bundle
    from mmx.models.checkpoint import save_checkpoint, seeded_module
    from mmx.models.registry import get_system

    config = get_system(system).presets["tiny"]
    save_checkpoint(tmp_path / "c.pt", seeded_module(system, config), system, config, dataset="iemocap")
    export_bundle(tmp_path / "c.pt", tmp_path / "c.mmx")
    bundle, made = ensure_variant(Bundle.open(tmp_path / "c.mmx"), "fp16", samples=32)
    parity = bundle.graph("fp16").spec.parity
    assert made and parity["half_nodes"] > 10 and parity["max_error"] < 1e-2
    assert all(error is not None for error in parity["scales"].values())


@pytest.mark.slow
def test_ours_at_full_size_flips_no_label_on_256_utterances(tmp_path: Path) -> None:
    from mmx.export.exporter import export_bundle
    from mmx.models.checkpoint import save_checkpoint, seeded_module
    from mmx.models.registry import get_system

    config = get_system("ours").presets["full"]
    save_checkpoint(tmp_path / "c.pt", seeded_module("ours", config), "ours", config, dataset="iemocap")
    export_bundle(tmp_path / "c.pt", tmp_path / "c.mmx")
    bundle, _ = ensure_variant(Bundle.open(tmp_path / "c.mmx"), "fp16", samples=256, seconds=3600)
    parity = bundle.graph("fp16").spec.parity
    assert parity["samples"] == 256 and parity["max_error"] < 1e-2 and parity["label_flips"] == 0
