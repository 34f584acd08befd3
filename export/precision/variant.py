"""Make a precision variant, verify it, and add it to a bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from mmx.export.precision.current import FLIPS, RECIPE, TOLERANCE, Half, is_current
from mmx.export.precision.ranges import largest_values
from mmx.export.precision.rounded import rounded
from mmx.export.precision.rules import NO_CHOICES, Choices, Kept, count_by_rule, kept_nodes, with_finite_masks
from mmx.export.precision.samples import Inputs, scaled, utterances
from mmx.export.precision.sensitivity import SensitivitySearch
from mmx.export.precision.session import cpu_session
from mmx.export.precision.verification import (
    SCALES,
    Accuracy,
    Exact,
    Stop,
    measure,
    outputs_of,
    require,
    require_labels,
)
from mmx.export.precision.view import GraphView, read_graph
from mmx.export.variant_writer import VariantFolder, made_now, new_variant
from mmx.runtime.bundle import Bundle
from mmx.runtime.records import GraphRecord

BATCH = 4
ATTEMPTS = 6  # each with more of the graph in FP32
AIM = 0.3  # of the tolerance: a few samples see smaller errors than many
TUNING_SAMPLES, TUNING_BATCH = 8, 2  # for the rules that measure
REMEDY = "use --bf16, which has FP32's range, or --fp32; --tolerance sets what is accepted"

Report = Callable[[str, float], None]  # what is being done, and how much of it is done (0..1)


@dataclass(frozen=True)
class Variant:
    """A half-precision graph with its reasons and its measured accuracy."""

    model: onnx.ModelProto
    half: Half
    kept: tuple[Kept, ...]
    accuracy: Accuracy
    summary: dict[str, Any]


def make_variant(
    model: onnx.ModelProto,
    half: Half,
    batches: Callable[[], Iterable[Inputs]],
    tuning: Sequence[Inputs],
    *,
    what: str,
    thresholds: Sequence[float] = (),
    tolerance: float | None = None,
    flips: int | None = None,
    total: int = 0,
    choices: Choices = NO_CHOICES,
    report: Report | None = None,
) -> Variant:
    """Turn an FP32 graph into half precision and compare the two. Any ONNX graph will do.

    Args:
        model: the FP32 graph; it is not changed.
        batches: gives the inputs for the comparison; they are taken one by one, so the caller can stop early.
        tuning: inputs for the rules that measure, and for the loud runs.
        what: names the graph in an error.
        thresholds: probability per label, for counting label flips.
        tolerance: largest accepted logit error; None takes the precision's own.
        flips: with more label flips than this, more of the graph is kept in FP32, ``ATTEMPTS`` times; None: any number.
        total: samples that ``batches`` will give, for ``report``.
        choices: the user's, for single nodes.

    Raises:
        ParityError: not accurate enough, or not finite on loud inputs.
        BadDataError: the graph's types cannot be inferred. UsageError: a pattern of ``choices`` fits no node.
    """
    say = report or (lambda what, share: None)
    finite, masks = with_finite_masks(model)
    view = GraphView(finite)
    by_size = sorted(tuning, key=lambda batch: sum(array.size for array in batch.values()))
    loud = by_size[:1]
    say("measuring ranges", 0)
    largest = largest_values(view, [*by_size, *(scaled(batch, max(SCALES)) for batch in loud)])
    accepted = TOLERANCE[half] if tolerance is None else tolerance
    exact = Exact(model, thresholds)
    kept_by_rules = kept_nodes(view, half, largest, choices)
    search = SensitivitySearch(view, half, kept_by_rules, exact, by_size[len(by_size) // 2], say)
    search.run(lambda graph: _worst(exact, graph, by_size) <= AIM * accepted)
    failed: list[Stop] = []
    while True:
        final = len(failed) == ATTEMPTS or not search.holds
        converted = search.converted()
        accuracy, stop = measure(
            exact,
            converted.model,
            batches(),
            loud,
            tolerance=accepted,
            flips=None if final else flips,
            progress=lambda done: say(f"comparing with FP32, sample {done}", done / total if total else 0),
        )
        if stop is None or final:
            break
        failed.append(stop)
        search.step()
        search.run(lambda graph: _mended(exact, graph, failed, AIM * accepted))
    require(accuracy, what, REMEDY)
    kept = search.kept
    said = {item.node: item for item in kept.values() if item.rule not in ("move", "conversion")}
    for node in converted.model.graph.node:
        if reason := said.get(node.name):
            node.doc_string = f"FP32, {reason.rule}: {reason.reason}"
    summary = {
        "half_nodes": converted.half_nodes,
        "fp32_nodes": converted.fp32_nodes,
        "kept_fp32": count_by_rule(kept),
        "casts": converted.casts,
        "finite_masks": masks,
    }
    return Variant(converted.model, half, tuple(kept.values()), accuracy, summary)


def _worst(exact: Exact, graph: onnx.ModelProto, batches: Sequence[Inputs]) -> float:
    """The largest error of a half-precision graph on some inputs."""
    half = cpu_session(rounded(graph), basic=True)
    return max(exact.worst(exact.outputs(inputs), outputs_of(half, exact.names, inputs)) for inputs in batches)


def _mended(exact: Exact, graph: onnx.ModelProto, failed: Sequence[Stop], aim: float) -> bool:
    """Whether the batches that a comparison stopped at would now pass: flips gone, errors well below the tolerance."""
    half = cpu_session(rounded(graph))
    for stop in failed:
        want, got = exact.outputs(stop.inputs, stop.number), outputs_of(half, exact.names, stop.inputs)
        if len(exact.decisions(want, got)[2]) or (stop.error and exact.worst(want, got) > aim):
            return False
    return True


def reasons(model: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """(node, operation, why) for every node of a variant that stays FP32 by a rule; read from the graph itself."""
    return [(node.name, node.op_type, node.doc_string) for node in model.graph.node if node.doc_string[:5] == "FP32,"]


def ensure_variant(
    bundle: Bundle,
    half: Half,
    *,
    samples: int = 256,
    seconds: float = 1800,
    tolerance: float | None = None,
    max_flips: int | None = None,
    choices: Choices = NO_CHOICES,
    report: Report | None = None,
) -> tuple[Bundle, bool]:
    """Give the bundle its ``half`` graph, unless it has one of the same FP32 graph, recipe and tolerance.

    Where FP16 flips a label, more of the graph is kept in FP32 until none flips; one that still flips is reported
    and recorded.

    Args:
        samples: utterances to compare; the comparison stops early after ``seconds``, and the record says how many
            were run.
        tolerance: largest accepted logit error.
        max_flips: more label flips than this are an error; None: they are none.
        choices: the user's, for single nodes; a variant that was made with others is made again.

    Returns:
        The bundle as it then is, and whether the variant was made now.

    Raises:
        ParityError: the variant is not accurate enough; the bundle is left as it was.
    """
    wanted = TOLERANCE[half] if tolerance is None else tolerance
    if is_current(bundle, half, wanted, max_flips, choices.to_dict()):
        return bundle, False
    started = time.monotonic()
    with new_variant(bundle) as folder:
        manifest = bundle.manifest
        model = read_graph(bundle.graph().path)
        variant = make_variant(
            model,
            half,
            lambda: until(utterances(manifest, samples, BATCH), seconds),
            list(utterances(manifest, TUNING_SAMPLES, TUNING_BATCH, seed=1)),
            what=f"{bundle.path} in {half}",
            thresholds=manifest.thresholds,
            tolerance=wanted,
            flips=FLIPS.get(half) if max_flips is None else max_flips,
            total=samples,
            choices=choices,
            report=report,
        )
        require_labels(variant.accuracy, str(bundle.path), max_flips)
        add_graph(
            folder,
            bundle,
            half,
            variant.model,
            recipe={
                "rules": RECIPE,
                "choices": choices.to_dict(),
                "samples": samples,
                "seconds": seconds,
                "tolerance": wanted,
            },
            verification={**variant.accuracy.to_dict(), **variant.summary},
            **made_now(time.monotonic() - started),
        )
    return bundle.refreshed(), True


def add_graph(
    folder: VariantFolder,
    bundle: Bundle,
    precision: str,
    model: onnx.ModelProto,
    **about: Any,
) -> None:
    """Save a graph in a new variant's folder and publish it there as the bundle's newest of a precision.

    Args:
        about: the other fields of its ``GraphRecord``.
    """
    name = f"model.{precision}.onnx"
    with folder.writing():
        onnx.save(model, folder.path / name)
    opset = bundle.manifest.graphs["fp32"].opset
    record = GraphRecord(precision=precision, source=bundle.graph_sha256, files={}, graph=name, opset=opset, **about)
    folder.publish(precision, record)


def until(batches: Iterable[Inputs], seconds: float) -> Iterator[Inputs]:
    """The batches, until so many seconds have passed; at least one."""
    end = time.monotonic() + seconds
    for batch in batches:
        yield batch
        if time.monotonic() > end:
            return
