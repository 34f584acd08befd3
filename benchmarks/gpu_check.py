"""Everything that only a machine with a GPU can say, in one command:

    python -m mmx.benchmarks.gpu_check --out gpu

It runs the device layer, builds and runs engines where TensorRT is, ONNX Runtime's CUDA provider where that is, and
PyTorch on the same card; compares every answer with the CPU's; measures latency, batch scaling, GPU memory and what
copies and products reach; and writes gpu.json and gpu.md. What is missing is said, and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmx.benchmarks import environment, gpu_device
from mmx.benchmarks.contenders.bundles import BundleContender
from mmx.benchmarks.contenders.prepare import Prepared, prepare_all
from mmx.benchmarks.gpu_contenders import Maker, makers
from mmx.benchmarks.measure.offline import offline
from mmx.benchmarks.statistics import latency
from mmx.benchmarks.timing import Contender, interleave, warm_up
from mmx.benchmarks.workload.utterances import make_sample, stratified, synthetic
from mmx.runtime.device.base import LAYERS, open_device
from mmx.runtime.device.probe import DriverProblem, ask_driver, find_gpu
from mmx.runtime.device.trt import FLAVOURS
from mmx.runtime.errors import MmxError
from mmx.runtime.types import Sample

SYSTEMS = ("ours", "v2em", "fe2e", "v2em-visual+focal", "rfam+nest")
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2}  # of a logit against the CPU's FP32
NO_GPU = 4


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: its status (ok, wrong, missing, failed), what was seen, and figures."""

    part: str
    name: str
    status: str
    detail: str
    figures: dict[str, Any] = field(default_factory=dict)


class Report:
    """Collects findings and prints each as it comes."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, finding: Finding) -> None:
        """Keep and print one."""
        self.findings.append(finding)
        print(f"  {finding.status:8} {finding.part:10} {finding.name}: {finding.detail}", flush=True)

    def attempt(self, part: str, name: str, work: Callable[[], tuple[str, dict[str, Any]]]) -> bool:
        """Do something; whatever goes wrong becomes a finding. Returns whether it went well."""
        try:
            detail, figures = work()
        except MmxError as e:
            self.add(Finding(part, name, "missing", str(e)))
        except Exception as e:  # a check that fails must not end the others
            self.add(Finding(part, name, "failed", f"{type(e).__name__}: {e}".splitlines()[0][:300]))
        else:
            self.add(Finding(part, name, "ok", detail, figures))
            return True
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check. Exit code: 0 all that was there is right, 1 something is wrong, 4 there is no GPU."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--preset", default="full", help="size of the seeded systems")
    parser.add_argument("--dataset", default="iemocap", choices=("iemocap", "mosei"))
    parser.add_argument("--samples", type=int, default=64, help="utterances of the data set's lengths")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--batches", default="1,4,16,64")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="OUT.json and OUT.md are written")
    options = parser.parse_args(argv)
    report, started = Report(), time.time()
    report.attempt("machine", "GPU", _gpu)
    has_gpu = report.findings[0].status == "ok"
    for layer in LAYERS:
        _check_layer(report, layer)
    report.attempt("ceiling", "products", lambda: _rates(gpu_device.product_rates()))
    if has_gpu:
        systems, say = options.systems.split(","), lambda text: print(f"  {text}")
        chosen = stratified(synthetic(options.dataset), options.samples).utterances
        samples = [make_sample(utterance) for utterance in chosen]
        batches = [int(size) for size in options.batches.split(",")]
        for system in prepare_all(systems, options.dataset, say, options.preset):
            prepared = build_all(report, system)
            check_system(report, prepared, samples, options.passes, batches, makers(prepared))
    write(report, options, time.time() - started)
    if not has_gpu:
        return NO_GPU
    return int(any(finding.status in ("wrong", "failed") for finding in report.findings))


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
    costs = {contender.key: warm_up(contender, samples[0]) for contender in contenders}
    timings = interleave(contenders, [lambda s=sample: s for sample in samples], passes, costs)  # type: ignore[misc]
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
        parity = bundle.manifest.graphs["fp16"].parity
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
            with closing(open_device(layer)) as device:
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


def write(report: Report, options: argparse.Namespace, seconds: float) -> None:
    """OUT.json for machines, OUT.md for people; the same findings."""
    here = environment.describe()
    command = "python -m mmx.benchmarks.gpu_check " + " ".join(sys.argv[1:])
    data = {
        "schema_version": 1,
        "command": command.strip(),
        "seconds": round(seconds, 1),
        "environment": asdict(here),
        "findings": [asdict(finding) for finding in report.findings],
    }
    lines = ["# GPU check", "", f"`{command.strip()}`", "", *here.lines(), ""]
    lines += ["| part | what | status | seen |", "|---|---|---|---|"]
    lines += [f"| {f.part} | {f.name} | {f.status} | {f.detail.replace('|', '/')} |" for f in report.findings]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(data, indent=2) + "\n"), (".md", "\n".join(lines) + "\n")):
        path = options.out.with_name(options.out.name + suffix)
        new = path.with_name(path.name + ".tmp")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
        print(f"  wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
