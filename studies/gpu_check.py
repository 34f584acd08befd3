"""Everything that only a machine with a GPU can say, in one command:

    python studies/gpu_check.py --out gpu

It runs the device layer, builds and runs engines where TensorRT is, ONNX Runtime's CUDA provider where that is, and
PyTorch on the same card; compares every answer with the CPU's; measures latency, batch scaling, GPU memory and what
copies and products reach; runs mmx bench on all of it; and writes gpu.json, gpu.md and mmx bench's own two files. What
is missing is said, and the rest goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gpu_device
import numpy as np
from gpu_contenders import Maker, makers
from gpu_report import Finding, Report, write

from mmx.benchmarks.contenders.bundles import BundleContender
from mmx.benchmarks.contenders.prepare import Prepared, prepare_all
from mmx.benchmarks.measure.offline import offline
from mmx.benchmarks.workload.utterances import make_sample, stratified, synthetic
from mmx.evaluation.statistics import latency
from mmx.evaluation.timing import Contender, interleave, warm_up
from mmx.runtime.backends import ON_GPU
from mmx.runtime.device.base import LAYERS, open_device
from mmx.runtime.device.probe import DriverProblem, ask_driver, find_gpu
from mmx.runtime.device.trt import FLAVOURS
from mmx.runtime.errors import EnvironmentMissing, MmxError
from mmx.runtime.types import Sample

SYSTEMS = ("ours", "v2em", "fe2e", "v2em-visual+focal", "rfam+nest")
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2}  # of a logit against the CPU's FP32
NO_GPU = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check. Exit code: 0 all that was there is right, 1 something is wrong, 4 there is no GPU."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--preset", default="full", help="size of the seeded systems")
    parser.add_argument("--dataset", default="iemocap", choices=("iemocap", "mosei"))
    parser.add_argument("--samples", type=int, default=64, help="utterances of the data set's lengths")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--batches", default="1,4,16,64")
    parser.add_argument("--bench-minutes", type=float, default=8.5, help="what mmx bench may take; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="OUT.json and OUT.md are written")
    options = parser.parse_args(argv)
    report, started = Report(), time.time()
    has_gpu = report.attempt("machine", "GPU", _gpu)
    for layer in LAYERS:
        _check_layer(report, layer)
    report.attempt("ceiling", "products", lambda: _rates(gpu_device.product_rates()))
    systems = options.systems.split(",")
    if has_gpu:
        chosen = stratified(synthetic(options.dataset), options.samples).utterances
        samples = [make_sample(utterance) for utterance in chosen]
        batches = [int(size) for size in options.batches.split(",")]
        for system in systems:
            _check_one(report, system, options, samples, batches)
        if options.bench_minutes:
            report.attempt("bench", "mmx bench", lambda: _bench(systems, options))
    else:
        for part in ("graph", "engine", "answers", "latency", "batches", "bench"):
            report.add(Finding(part, ", ".join(systems), "missing", "not run: it needs a GPU"))
    write(report, options.out, time.time() - started)
    if not has_gpu:
        return NO_GPU
    return int(any(finding.status in ("wrong", "failed") for finding in report.findings))


def _check_one(
    report: Report, name: str, options: argparse.Namespace, samples: Sequence[Sample], batches: Sequence[int]
) -> None:
    """Export a system (or find it in the cache), make its FP16 graph and engines, compare and time."""
    prepared: list[Prepared] = []

    def export() -> tuple[str, dict[str, Any]]:
        prepared.extend(prepare_all([name], options.dataset, lambda text: print(f"  {text}"), options.preset))
        return f"{prepared[0].bundle.path}", {}

    if report.attempt("export", name, export):
        ready = build_all(report, prepared[0])
        check_system(report, ready, samples, options.passes, batches, makers(ready))


def _bench(systems: Sequence[str], options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """``mmx bench`` on the same bundles, with every GPU backend; PyTorch on this card is in the parts above."""
    out: Path = options.out.with_name(f"{options.out.name}-bench")
    command = [sys.executable, "-m", "mmx.cli.main", "bench", options.dataset, "--systems", ",".join(systems)]
    command += ["--backends", ",".join((*ON_GPU, "onnxruntime")), "--scenarios", "single-stream,offline"]
    command += ["--peers", "eager", "--preset", options.preset, "--minutes", str(options.bench_minutes)]
    files = ["--out", f"{out}.json", "--out", f"{out}.md"]
    Path(f"{out}.md").unlink(missing_ok=True)  # an earlier run's
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.strip().splitlines() if not line.startswith("hint:")]
    last = said[-1] if said else "no message"
    if (
        done.returncode == EnvironmentMissing.exit_code and Path(f"{out}.md").exists()
    ):  # the error comes after its report
        return f"tables in {out}.md; {last}", {"command": command}
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {last}")
    return f"tables in {out}.md", {"command": command}


def check_system(
    report: Report,
    prepared: Prepared,
    samples: Sequence[Sample],
    passes: int,
    batches: Sequence[int],
    contenders: Iterable[Maker],
) -> None:
    """Open whatever opens, compare each with the CPU, and time those that are right."""
    with closing(BundleContender(prepared.system, prepared.bundle, "onnxruntime", "fp32", None)) as cpu:
        expected = np.concatenate([cpu.run([sample]) for sample in samples])
    fitting = [contender for key, make in contenders for contender in _right(report, key, make, samples, expected)]
    _time(report, fitting, samples, passes, batches)
    for contender in fitting:
        contender.close()


def build_all(report: Report, prepared: Prepared) -> Prepared:
    """The FP16 graph, and an engine of each precision for each TensorRT that is installed."""
    prepared = _with_variants(report, prepared)
    for flavour in FLAVOURS.values():
        for precision in ("fp32", "fp16"):
            if flavour.installed_version is not None:
                name = f"{prepared.system} {flavour.name} {precision}"
                report.attempt("engine", name, lambda f=flavour, p=precision: _engine(prepared, f.name, p))  # type: ignore[misc]
    return prepared


def _right(
    report: Report, key: str, make: Callable[[], Contender], samples: Sequence[Sample], expected: np.ndarray
) -> list[Contender]:
    """Open one and compare it with the CPU; the contender, if it opens and is right."""
    opened: list[Contender] = []

    def work() -> tuple[str, dict[str, Any]]:
        free = _free_memory()
        opened.append(make())
        return _answers(opened[0], samples, expected, free)

    if report.attempt("answers", key, work):
        return opened
    for contender in opened:
        contender.close()
    return []


def _answers(
    contender: Contender, samples: Sequence[Sample], expected: np.ndarray, free: int | None
) -> tuple[str, dict[str, Any]]:
    answers = np.concatenate([contender.run([sample]) for sample in samples])
    together = contender.run(samples[:8])
    used = None if free is None else round((free - (_free_memory() or 0)) / 2**20)
    error = float(np.abs(answers - expected).max())
    company = float(np.abs(together - answers[:8]).max())
    flips = int(((answers > 0) != (expected > 0)).sum())
    limit = TOLERANCE[contender.key.rsplit("/", 1)[1]]
    if not error <= limit or not company <= limit:
        raise RuntimeError(f"logits are {error:.1e} off the CPU's, {company:.1e} in company; {limit:g} is allowed")
    figures = {"max_error": error, "in_company": company, "flips": flips, "samples": len(samples), "gpu_mb": used}
    memory = "" if used is None else f", {used} MB of GPU memory"
    return f"within {error:.1e} of the CPU on {len(samples)} samples, {flips} flips{memory}", figures


def _time(
    report: Report, contenders: Sequence[Contender], samples: Sequence[Sample], passes: int, batches: Sequence[int]
) -> None:
    """Single-stream latencies, interleaved, then throughput by batch size."""
    if not contenders:
        return
    for contender in contenders:
        warm_up(contender, samples[0])
    timings = interleave(contenders, [lambda s=sample: s for sample in samples], passes)  # type: ignore[misc]
    for contender in contenders:
        seen = latency(timings[contender.key].seconds)
        detail = f"p50 {seen.p50:.2f} ms, p99 {seen.p99:.2f} ms"
        report.add(Finding("latency", contender.key, "ok", detail, asdict(seen)))

        def throughput(contender: Contender = contender) -> tuple[str, dict[str, Any]]:
            rates = offline(contender, samples, batches).samples_per_second
            return ", ".join(f"batch {size}: {rate:.0f}/s" for size, rate in rates.items()), {"utterances_per_s": rates}

        report.attempt("batches", contender.key, throughput)


def _with_variants(report: Report, prepared: Prepared) -> Prepared:
    from mmx.export.precision.variant import ensure_variant

    bundle = prepared.bundle

    def work() -> tuple[str, dict[str, Any]]:
        nonlocal bundle
        bundle, _ = ensure_variant(bundle, "fp16", samples=32, seconds=120)
        parity = bundle.graph("fp16").spec.parity
        return f"logits within {parity['max_error']:.1e} by the rounded reference", parity

    report.attempt("graph", f"{prepared.system} fp16", work)
    return Prepared(prepared.system, prepared.folder, bundle, prepared.preset, prepared.checkpoint)


def _engine(prepared: Prepared, flavour: str, precision: str) -> tuple[str, dict[str, Any]]:
    from mmx.export.engine.build import build_engine

    built = build_engine(
        prepared.bundle.path, precision, target="native", flavour=flavour, batch=64, samples=32, seconds=120
    )
    how = "found" if built.cached else f"built in {built.record.made['seconds']} s"
    return f"{built.record.size / 2**20:.0f} MB, {how}", {"size": built.record.size, **built.record.made}


def _gpu() -> tuple[str, dict[str, Any]]:
    try:
        gpu = ask_driver()
    except DriverProblem as e:
        raise MmxError(str(e)) from e
    memory = f"{gpu.memory / 2**30:.0f} GB"
    return f"{gpu.name}, compute capability {gpu.capability}, {memory}, driver's CUDA {gpu.cuda}", asdict(gpu)


def _check_layer(report: Report, layer: str) -> None:
    def run(check: Callable[[Any], Any]) -> Callable[[], tuple[str, dict[str, Any]]]:
        def work() -> tuple[str, dict[str, Any]]:
            with closing(open_device(layer)) as device, device.current():
                found = check(device)
            return _rates(found) if isinstance(found, dict) else (found, {})

        return work

    for name, check in (
        ("copies", gpu_device.check_copies),
        ("graphs", gpu_device.check_graph),
        ("copy rate", gpu_device.copy_rates),
    ):
        if not report.attempt("device", f"{layer} {name}", run(check)):
            return


def _rates(rates: dict[str, float]) -> tuple[str, dict[str, Any]]:
    return ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()), dict(rates)


def _free_memory() -> int | None:
    """Free GPU memory in bytes; None where nothing here can ask."""
    if find_gpu() is None:
        return None
    try:
        from cuda.bindings import driver
    except ImportError:
        return None
    code, free, _total = driver.cuMemGetInfo()
    return int(free) if int(code) == 0 else None


if __name__ == "__main__":
    sys.exit(main())
