"""The ``paper`` scenario: a program from start to exit, load included, timed from outside, as the paper timed its
tests.

    python -m mmx.benchmarks.measure.whole_program JOB.json

runs one job in the process it is in and prints what it saw as one line of JSON. ``run_job`` starts such a process. A
bundle's process never imports torch, as a user's would not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmx.benchmarks.results import PEERS, WholeProgram
from mmx.benchmarks.workload.utterances import make_sample, stratified, synthetic
from mmx.evaluation.environment import peak_rss_mb
from mmx.evaluation.timing import Contender, timed
from mmx.runtime.errors import MmxError
from mmx.runtime.scratch import Scratch

TIMEOUT_S = 1800


@dataclass(frozen=True)
class Job:
    """What the process runs: a contender on so many samples of a synthetic set.

    ``folder``: where ``prepare`` put the system. ``bundle``: where its bundle is. ``preset``, ``checkpoint``: of a
    peer's weights.
    """

    key: str
    folder: str
    bundle: str
    dataset: str
    samples: int
    threads: int
    preset: str = "full"
    checkpoint: str | None = None


def run_job(job: Job) -> WholeProgram:
    """Run a job in a process of its own and time it.

    Raises:
        MmxError: the process failed; the message is its last line.
    """
    with Scratch("bench") as scratch:
        file = scratch.path / "job.json"
        file.write_text(json.dumps(asdict(job)), encoding="utf-8")
        start = time.perf_counter()
        command = [sys.executable, "-m", "mmx.benchmarks.measure.whole_program", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        seconds = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MmxError(f"the process that ran {job.key} failed: {last}")
    seen = json.loads(done.stdout.splitlines()[-1])
    startup = seconds - seen["run_s"] - seen["made_s"]
    return WholeProgram(
        key=job.key,
        threads=job.threads,
        samples=job.samples,
        start_s=startup,
        run_s=seen["run_s"],
        set_seconds=startup + seen["set_s"],
        peak_rss_mb=seen["peak_rss_mb"],
    )


def _main(file: str) -> None:
    job = Job(**json.loads(Path(file).read_text(encoding="utf-8")))
    part = stratified(synthetic(job.dataset), job.samples)
    start = time.perf_counter()
    samples = [make_sample(utterance) for utterance in part.utterances]
    made_s = time.perf_counter() - start  # of the bench, not of the program that it stands for
    contender = _open(job)
    spent = np.array([timed(contender, [sample])[0] for sample in samples])
    seen = {"run_s": spent.sum(), "set_s": part.extrapolate(spent), "made_s": made_s, "peak_rss_mb": peak_rss_mb()}
    print(json.dumps(seen))


def _open(job: Job) -> Contender:
    system, runner, precision = job.key.split("/")
    if runner in PEERS:
        from mmx.benchmarks.contenders.peers import open_peer
        from mmx.benchmarks.contenders.upstream import upstream_module

        checkpoint = Path(job.checkpoint) if job.checkpoint else None
        return open_peer(runner, system, upstream_module(system, job.preset, checkpoint), job.threads, Path(job.folder))
    from mmx.benchmarks.contenders.bundles import BundleContender
    from mmx.runtime.bundle import Bundle

    return BundleContender(system, Bundle.open(Path(job.bundle)), runner, precision, job.threads)


if __name__ == "__main__":
    _main(sys.argv[1])
