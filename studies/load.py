"""What batching across users is worth: python studies/load.py BUNDLE [--json FILE]

Servers that differ in how they share the cores get the same Poisson arrivals on loopback, turn and turn about, at each
of a list of rates; every answer is checked against the sample alone. The client takes its share of the same cores.

    one at a time   each request alone, on all cores
    side by side    each request alone, on one core; as many at once as there are cores
    batched         what mmx serve does: as many batches at once as there are cores

What each can do within a bound is then searched for by a staircase: more after a run whose p99 kept the bound, less
after one that did not, in turns with the others, since a machine that is shared is not equally fast all the time. A
staircase hovers about a rate and shows none to be held: from there, plays of ``PLAYED`` arrivals at falling rates show
one at which at most 1 % of answers are late, wrong, rejected or lost, with 95 % confidence.

``tensors`` sends samples of the synthetic IEMOCAP set (model scope); ``video`` a video, each time with other words.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
from load_client import Client, Outcomes, Request, media, relative, tensors, tolerance_of
from load_server import serving

from mmx.benchmarks.workload.utterances import make_sample, stratified, synthetic
from mmx.evaluation.environment import describe
from mmx.evaluation.statistics import late_allowed
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.files import write_text
from mmx.runtime.predictor import Predictor

CLIENTS = 32  # of the closed loop that finds how much a server can do
QUEUE = "512"  # nobody is rejected here: waiting is what is measured
FAR_BEYOND = 1.5
STEP = 1.1  # of the staircase
PLAYED, STEP_DOWN, PLAYS = (
    773,
    0.9,
    6,
)  # arrivals, of which three may be late (evaluation.statistics); then a lower rate
ALONE, BESIDE, BATCHED = "one at a time", "side by side", "batched"


@dataclass(frozen=True)
class Point:
    """One server at one offered rate: milliseconds from arrival to answer, and what became of the requests.

    ``late``: answered after the bound, wrongly, or not at all.
    """

    server: str
    offered_per_s: float
    sent: int
    p50_ms: float
    p99_ms: float
    wrong: int
    lost: int
    late: int


@dataclass(frozen=True)
class Load:
    """A whole run.

    Attributes:
        server_options: of ``mmx serve``, by server.
        requests: different ones. seconds: of each run.
        capacity_per_s: answers a second with ``CLIENTS`` that never pause, by server.
        points: at the rates that were asked for.
        bound_ms: of an answer. stairs: the runs of the staircase, in their order. plays: those that show what is held.
        held_per_s: the rate that was shown to be held, by server; 0: none was.
    """

    mode: str
    system: str
    server_options: dict[str, list[str]]
    requests: int
    seconds: float
    capacity_per_s: dict[str, float]
    points: tuple[Point, ...]
    bound_ms: float
    stairs: tuple[Point, ...]
    plays: tuple[Point, ...]
    held_per_s: dict[str, float]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--mode", type=click.Choice(["tensors", "video"]), default="tensors", show_default=True)
@click.option("--video", type=click.Path(path_type=Path, exists=True), help="What mode video sends.")
@click.option("--requests", default=48, show_default=True, help="Different ones, drawn at random.")
@click.option("--seconds", default=12.0, show_default=True, help="Of each run.")
@click.option("--rates", default="0.5,0.8,1.1,1.4,1.7,2", show_default=True, help="Times what one at a time can do.")
@click.option("--bound", default=1000.0, show_default=True, help="Milliseconds that p99 may reach.")
@click.option(
    "--stairs", type=click.IntRange(min=0), default=12, show_default=True,
    help="Runs of each server in search of what keeps the bound.",
)  # fmt: skip
@click.option("--backend", default="onnxruntime", show_default=True)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--cores", default=2, show_default=True, help="That each server uses.")
@click.option("--batch-size", default=4, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result.")
def main(
    bundle: Path,
    mode: str,
    video: Path | None,
    requests: int,
    seconds: float,
    rates: str,
    bound: float,
    stairs: int,
    backend: str,
    precision: str,
    cores: int,
    batch_size: int,
    json_path: Path | None,
) -> None:
    """Measure a server with and without batching."""
    if mode == "video" and video is None:
        raise UsageError("--mode video needs --video", "any video with a face; demo/clip.py makes one")
    common = ["--backend", backend, "--precision", precision, "--queue", QUEUE]
    options = {
        ALONE: [*common, "--streams", "1", "--threads", str(cores), "--batch-size", "1"],
        BESIDE: [*common, "--streams", str(cores), "--threads", "1", "--batch-size", "1"],
        BATCHED: [*common, "--streams", str(cores), "--threads", "1", "--batch-size", str(batch_size)],
    }
    asked, system = make_requests(bundle, mode, video, requests, backend, precision)
    factors = [float(rate) for rate in rates.split(",")]
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving(bundle, each)).url for name, each in options.items()}
        capacity, points, climbed, plays = asyncio.run(measure(servers, asked, factors, seconds, bound, stairs))
    held = {name: next((p.offered_per_s for p in plays if p.server == name and holds(p)), 0.0) for name in servers}
    load = Load(
        mode, system, options, len(asked), seconds, capacity, tuple(points), bound, tuple(climbed), tuple(plays), held
    )  # fmt: skip
    click.echo(table(load))
    if json_path:
        text = json.dumps({"environment": asdict(describe()), **asdict(load)}, indent=2) + "\n"
        write_text(json_path, text)


def make_requests(
    bundle: Path, mode: str, video: Path | None, count: int, backend: str, precision: str
) -> tuple[list[Request], str]:
    """The requests with their answers, each computed alone; and what answered, in words."""
    with Predictor(bundle, backend=backend, precision=precision, threads=1) as predictor:
        system = f"{predictor.bundle.manifest.system}, {predictor.backend.name} {predictor.backend.precision}"
        tolerance = tolerance_of(predictor.backend.precision)
        asked: list[tuple[dict[str, Any], np.ndarray]] = []
        if mode == "video":
            assert video is not None
            data = video.read_bytes()
            for number in range(count):
                text = " ".join(["no", "matter"] * (1 + number % 6))
                rows = [list(each.logits.values()) for each in predictor.predict(video, text=text)]
                asked.append((media(data, text), np.array(rows)))
        else:
            for sample in map(make_sample, stratified(synthetic("iemocap"), count).utterances):
                asked.append((tensors(sample), predictor.network.logits([sample])["logits"].astype(np.float64)))
    check_distinct([logits for _, logits in asked], tolerance)
    return [Request(options, logits, tolerance) for options, logits in asked], system


def check_distinct(answers: list[np.ndarray], tolerance: float) -> None:
    """That no answer can pass for another's, so that a mix-up is seen.

    Raises:
        BadDataError: two that differ are closer than twice the tolerance.
    """
    for one, other in combinations(answers, 2):
        if one.shape == other.shape and 0 < (apart := min(relative(one, other), relative(other, one))) <= 2 * tolerance:
            raise BadDataError(
                f"two requests have answers only {apart:.1e} of the largest logit apart, which a mix-up could hide",
                "use --precision fp32, or another --requests",
            )


async def measure(
    servers: dict[str, str], requests: list[Request], factors: list[float], seconds: float, bound_ms: float, stairs: int
) -> tuple[dict[str, float], list[Point], list[Point], list[Point]]:
    """Capacities, then every server at each rate, the staircase, and the plays; the order of the servers turns round.

    Rates go up, and a server whose p99 is far beyond the bound is not played a higher one.
    """
    points: list[Point] = []
    climbed: list[Point] = []
    plays: list[Point] = []
    capacity: dict[str, list[float]] = {name: [] for name in servers}
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(Client(url)) for name, url in servers.items()}
        for name in (*servers, *reversed(servers)):
            _, rate = await clients[name].closed_loop(requests, CLIENTS, seconds / 2)
            capacity[name].append(rate)
        means = {name: float(np.mean(values)) for name, values in capacity.items()}
        if not all(means.values()):
            raise BadDataError(
                f"no answer was within {requests[0].tolerance:g} of the same sample's alone",
                "another --backend may do",
            )
        click.echo(f"with {CLIENTS} clients: {per_second(means)}", err=True)
        over: set[str] = set()
        for turn, factor in enumerate(sorted(factors)):
            for name in [each for each in in_turn(servers, turn) if each not in over]:
                rate = factor * means[ALONE]
                outcomes = await clients[name].open_loop(requests, rate, seconds)
                points.append(point(name, rate, outcomes, bound_ms))
                click.echo(line(points[-1]), err=True)
                if points[-1].p99_ms > FAR_BEYOND * bound_ms:
                    over.add(name)
        rates = {name: mean / STEP for name, mean in means.items()}
        for turn in range(stairs):
            for name in in_turn(servers, turn):
                outcomes = await clients[name].open_loop(requests, rates[name], seconds, seed=turn)
                climbed.append(point(name, rates[name], outcomes, bound_ms))
                rates[name] *= STEP if climbed[-1].p99_ms <= bound_ms else 1 / STEP
                click.echo(line(climbed[-1]), err=True)
        for turn in range(PLAYS if stairs else 0):
            for name in in_turn(servers, turn):
                if any(holds(each) for each in plays if each.server == name):
                    continue
                settled = [each.offered_per_s for each in climbed if each.server == name][stairs // 2 :]
                rate = float(np.mean(settled)) * STEP_DOWN ** (turn + 1)
                outcomes = await clients[name].open_loop(requests, rate, PLAYED / rate, seed=1000 + turn)
                plays.append(point(name, rate, outcomes, bound_ms))
                click.echo(line(plays[-1]), err=True)
    return means, points, climbed, plays


def holds(play: Point) -> bool:
    """Whether so few were late that at most 1 % are, with 95 % confidence."""
    return play.late <= late_allowed(play.sent)


def in_turn(servers: dict[str, str], turn: int) -> list[str]:
    """The servers, every other time the other way round."""
    return list(servers) if turn % 2 == 0 else list(reversed(servers))


def point(server: str, rate: float, outcomes: Outcomes, bound_ms: float) -> Point:
    """The figures of one run."""
    in_time = sum(seconds * 1000 <= bound_ms for seconds in outcomes.seconds)
    return Point(
        server=server,
        offered_per_s=rate,
        sent=outcomes.sent,
        p50_ms=outcomes.percentile_ms(50),
        p99_ms=outcomes.percentile_ms(99),
        wrong=len(outcomes.wrong),
        lost=len(outcomes.lost) + outcomes.rejected.total(),
        late=outcomes.sent - in_time,
    )


def per_second(rates: dict[str, float]) -> str:
    """Rates by server, and each as a multiple of one at a time."""
    base = rates[ALONE]
    return ", ".join(
        f"{name} {rate:.2f}/s" + (f" ({rate / base:.2f} times)" if base and name != ALONE else "")
        for name, rate in rates.items()
    )


def line(each: Point) -> str:
    """A point as a row of the table."""
    return (
        f"{each.server:13}  {each.offered_per_s:7.2f}/s  p50 {each.p50_ms:7.0f} ms  p99 {each.p99_ms:7.0f} ms  "
        f"{each.sent} sent, {each.late} late, of them {each.wrong} wrong, {each.lost} lost"
    )


def table(load: Load) -> str:
    """The result for people."""
    return "\n".join(
        [
            f"{load.system}, {load.mode}",
            f"at full load: {per_second(load.capacity_per_s)}",
            *(line(each) for each in load.points),
            *(
                [f"held within {load.bound_ms:.0f} ms (0: none shown): {per_second(load.held_per_s)}"]
                if load.plays
                else []
            ),
        ]
    )


if __name__ == "__main__":
    main()
