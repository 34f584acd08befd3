"""What a run measures beside the interleaving: other scenarios, the block ablation, stages, counts, scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from mmx.benchmarks.contenders.peers import Peer
from mmx.benchmarks.contenders.pipeline import MmxPipeline
from mmx.benchmarks.contenders.prepare import Prepared
from mmx.benchmarks.measure.offline import BATCHES, REPEATS, interleaved, offline
from mmx.benchmarks.measure.parity import agrees, parity
from mmx.benchmarks.measure.server import server
from mmx.benchmarks.measure.single_stream import MOST, Measured
from mmx.benchmarks.measure.whole_program import Job, run_job
from mmx.benchmarks.paper import PARAMETERS
from mmx.benchmarks.profiling.profile import PARTS, TOWERS, Profile, profile
from mmx.benchmarks.results import PEERS, Offline, Row, Server, WholeProgram
from mmx.benchmarks.workload.sources import Source
from mmx.benchmarks.workload.utterances import Workload, stratified
from mmx.evaluation.scores import scorecard
from mmx.evaluation.statistics import Ratio, chained, total_speedup
from mmx.evaluation.timing import Contender
from mmx.export.folding.fold import fold
from mmx.models.counting import count
from mmx.models.registry import get_system
from mmx.runtime.errors import ParityError
from mmx.runtime.machine import usable_cores
from mmx.runtime.packing import inputs_for
from mmx.runtime.types import Sample

OFFLINE_S = 18.0
FEWEST_BATCHED = 4
SIDE_BY_SIDE_S, SIDE_BY_SIDE_REPEATS, FEWEST_FILES = 20.0, 2, 6
SERVER_S, SERVER_UNLIMITED_S = 40.0, 600.0  # for the plays of one system; where --minutes sets no limit
WHOLE_PROGRAM_SAMPLES, OF_A_PEER = 12, 4
RESIDUAL_ROUNDS = 12
PROFILE_RUNS, BATCHED_RUNS = 5, 1


def offline_of(
    contender: Contender, measured: Measured, make: Callable[[int], Any], whole: Workload, opened: Sequence[Contender]
) -> Offline:
    """Throughput by batch size, and against the peers, on as many samples as fit in ``OFFLINE_S``.

    Args:
        contender: one of those that ``measured`` has a row and timings of. opened: where its peers are looked for.
    """
    system, _, precision = contender.key.split("/")
    peers = {each.key: each for each in opened}
    own = peers.get(f"{system}/openvino-own/{precision}")
    rival = own.unpadded() if isinstance(own, Peer) else None
    each = REPEATS * measured.costs[contender.key]
    beside = REPEATS * measured.costs[own.key] if own else 0.0
    count = int(OFFLINE_S / (each * len(BATCHES) + beside))
    sizes: tuple[int, ...] = BATCHES
    if count < max(BATCHES):  # a slow system: single samples, and one batch as large as time allows
        count = max(FEWEST_BATCHED, min(int(OFFLINE_S / (each * 2 + beside)), max(BATCHES) // 2))
        sizes = (1, count)
    part = stratified(whole, min(count, MOST))
    sizes = tuple(size for size in sizes if size <= len(part.utterances))
    found = offline(contender, [make(utterance.index) for utterance in part.utterances], sizes, rival)
    row = next(row for row in measured.rows if row.key == contender.key)
    plain = measured.timings.get(f"{system}/plain-onnx/fp32")
    assert found.gain is not None
    mine, weights = measured.timings[row.key].seconds, measured.workload.weights
    vs_plain = total_speedup(plain.seconds, mine, weights) if plain else None
    return replace(
        found,
        vs_baseline=chained(row.vs_baseline, found.gain) if row.vs_baseline else None,
        vs_own=chained(row.vs_own, found.gain) if row.vs_own else None,
        vs_plain=chained(vs_plain, found.gain) if vs_plain else None,
    )


def files_side_by_side(contender: MmxPipeline, row: Row, measured: Measured, source: Source) -> Offline:
    """Files a second through ``Pipeline`` against the same contender one file at a time, and so against upstream."""
    affordable = int(SIDE_BY_SIDE_S / (2 * SIDE_BY_SIDE_REPEATS * measured.costs[row.key]))
    some = measured.workload.utterances[: max(FEWEST_FILES, affordable)]
    clips = [source.make(utterance.index) for utterance in some]
    with closing(contender.many(row.threads)) as many:
        many.run(clips[:1])
        count = len(clips)
        seconds, (alone, together) = interleaved([(contender, 1), (many, count)], clips, count, SIDE_BY_SIDE_REPEATS)
    if not agrees(row.precision.split()[0], *parity(together, alone)):
        hint = "mmx predict without --workers is the latter"
        raise ParityError(f"{many.key} does not answer as {contender.key} does", hint)
    gain = total_speedup(seconds[0], seconds[1], np.ones(seconds.shape[1], np.int64).tolist())
    rates = {size: count / float(took.mean()) for size, took in zip((1, count), seconds, strict=True)}
    return Offline(
        rates,
        count,
        gain,
        vs_baseline=chained(row.vs_baseline, gain) if row.vs_baseline else None,
        vs_own=chained(row.vs_own, gain) if row.vs_own else None,
        samples=count,
    )


def server_of(
    contender: Contender, samples: Sequence[Sample], measured: Measured, bound_ms: float, unlimited: bool
) -> Server:
    """A Poisson rate that keeps the bound, from the service times that ``measured`` saw."""
    service = measured.timings[contender.key].seconds.mean(axis=1)
    seconds = SERVER_UNLIMITED_S if unlimited else SERVER_S
    return server(contender, samples, service, measured.workload.weights, bound_ms, seconds)


def whole_programs(keys: Sequence[str], systems: Sequence[Prepared], dataset: str) -> list[WholeProgram]:
    """The paper's way of timing, on all cores: a process for each contender, load included."""
    by_name = {prepared.system: prepared for prepared in systems}
    found = []
    for key in keys:
        prepared = by_name[key.split("/")[0]]
        checkpoint = str(prepared.checkpoint) if prepared.checkpoint else None
        job = Job(
            key,
            str(prepared.folder),
            str(prepared.bundle.path),
            dataset,
            OF_A_PEER if key.split("/")[1] in PEERS else WHOLE_PROGRAM_SAMPLES,
            usable_cores(),
            prepared.preset,
            checkpoint,
        )
        found.append(run_job(job))
    return found


def stages_of(row: Row, prepared: Prepared, source: Source) -> dict[str, float]:
    """Milliseconds by tower (its encoder included) and of the fusion, of one utterance of average length."""
    found = _profiled(row, prepared, source, 1, PROFILE_RUNS)
    return {name: found.parts[name].seconds * 1e3 for name in PARTS if name in found.parts}


def machine_shares(row: Row, prepared: Prepared, source: Source, batch: int) -> dict[str, float]:
    """Each tower's arithmetic rate as a share of the engine's own large matrix product, at this batch size."""
    found = _profiled(row, prepared, source, batch, BATCHED_RUNS)
    return {name: found.parts[name].gflops / found.roof.gflops for name in TOWERS if name in found.parts}


def _profiled(row: Row, prepared: Prepared, source: Source, batch: int, runs: int) -> Profile:
    middle = source.make(stratified(source.workload, 1).utterances[0].index)
    inputs = inputs_for(prepared.bundle.manifest, [middle] * batch)
    return profile(prepared.bundle, inputs, backend=row.runner, precision=row.precision, threads=row.threads, runs=runs)


def residual_ablation() -> dict[str, Ratio]:
    """Time of the merged visual trunk over that of the one whose shortcuts are kept, by engine, on one thread."""
    from mmx.benchmarks.measure.residual import eager, in_onnxruntime, in_openvino, interleaved, to_onnx, visual_trunk

    torch.set_num_threads(1)
    merged, kept = (fold(visual_trunk(), form)[0] for form in ("merge", "keep"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its own internals
        graphs = to_onnx(merged), to_onnx(kept)
    engines = {
        "PyTorch eager": (eager(merged), eager(kept)),
        "ONNX Runtime": (in_onnxruntime(graphs[0]), in_onnxruntime(graphs[1])),
    }
    if find_spec("openvino"):
        engines["OpenVINO"] = in_openvino(graphs[0]), in_openvino(graphs[1])
    return {
        name: Ratio(**interleaved(merge, keep, RESIDUAL_ROUNDS)["merge_over_keep"])
        for name, (merge, keep) in engines.items()
    }


def count_parameters(systems: Sequence[str]) -> dict[str, dict[str, int]]:
    """Parameters by trunk of those systems that the paper's table 5 has, counted on the modules themselves."""
    found = {}
    for name in (each for each in systems if each in PARAMETERS):
        with torch.device("meta"):
            module = get_system(name).build()
        found[name] = {part: counted.parameters for part, counted in count(module).items()}
    return found


def scores_of(
    contender: Contender, prepared: Prepared, source: Source, progress: Callable[[int], None]
) -> dict[str, float]:
    """Accuracy, weighted accuracy and F1 in percent over the whole set, at the bundle's thresholds."""
    assert source.targets is not None
    logits = []
    for utterance in source.workload.utterances:
        logits.append(contender.run([source.make(utterance.index)])[0])
        progress(len(logits))
    manifest = prepared.bundle.manifest
    targets = source.targets[:, [source.labels.index(label) for label in manifest.labels]]
    card = scorecard(np.stack(logits), targets, manifest.thresholds, manifest.labels)
    return {metric: 100 * card.mean(metric) for metric in ("accuracy", "weighted_accuracy", "f1")}
