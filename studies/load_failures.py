"""Try to break a server: python studies/load_failures.py BUNDLE VIDEO [--only NAME] [--json FILE]

Every answer is checked against the same file predicted alone, every request must be answered or rejected with a reason,
and the memory of the server and its processes is watched. Afterwards no process and no temporary file may be left.

    fuzz      mutated copies of the video, several at a time
    clients   200 clients that never pause, against a queue of 64
    hostile   slow senders, broken uploads, clients that leave, workers that are killed, amid real ones
    soak      60 clients and 12 different clips for a long time (--soak-seconds 1800 for the half hour)
    sigterm   SIGTERM in the middle of a load
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
import httpx
import numpy as np
from load import check_distinct
from load_client import TOLERANCE, Client, Outcomes, Request, media, tensors
from load_server import ServerProcess, serving

from mmx.benchmarks.workload.clips import clip_folder, make_clip
from mmx.benchmarks.workload.utterances import make_sample, stratified, synthetic
from mmx.evaluation.environment import describe
from mmx.runtime.errors import BadDataError, MmxError
from mmx.runtime.files import write_text
from mmx.runtime.predictor import Predictor

SEED = 11
TEXTS = ("I am so glad.", "No matter. Try again.", "Fail again. Fail better.", None)
FUZZ_CLIENTS, MANY_CLIENTS, SOAK_CLIENTS, SOAK_CLIPS = 8, 200, 60, 12
GROWTH, SLACK_MB = 1.1, 32  # of the memory, between the second quarter of a run and its last
RATE_OVER = 1.5  # of the load under which SIGTERM comes, as a multiple of what the server can do
KILL_EVERY_S = 4.0
SAMPLE_S = 1.0  # between two looks at the memory


@dataclass(frozen=True)
class Result:
    """One way of trying: counts of what became of the requests, and megabytes early and late in it.

    ``replaced``: workers that had to be replaced, by reason, as the server counts them.
    """

    name: str
    seconds: float
    sent: int
    answered: int
    rejected: dict[str, int]
    unconnected: int
    wrong: list[str]
    lost: list[str]
    replaced: dict[str, int]
    rss_mb_early: float
    rss_mb_late: float
    exit_code: int | None = None
    left: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Nothing wrong, lost or left behind, a clean exit where there was one, and a soak's memory flat."""
        grew = self.name == "soak" and self.rss_mb_late > GROWTH * self.rss_mb_early + SLACK_MB
        return not (self.wrong or self.lost or self.left or grew) and self.exit_code in (None, 0)


@dataclass(frozen=True)
class Material:
    """What is sent: requests for answers, and the video they are made of."""

    good: list[Request]
    video: bytes


# The queue has as many places for uploads, half of them for one address, which all clients have.
OPTIONS = {
    "hostile": ["--idle", "2"],
    "soak": ["--queue", str(2 * SOAK_CLIENTS)],
}
Run = Callable[[Client, ServerProcess, Outcomes], Awaitable[None]]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("video", type=click.Path(path_type=Path, exists=True))
@click.option("--only", multiple=True, type=click.Choice(["fuzz", "clients", "hostile", "soak", "sigterm"]))
@click.option("--mutants", default=1000, show_default=True)
@click.option("--seconds", default=30.0, show_default=True, help="Of clients, hostile and sigterm.")
@click.option("--soak-seconds", default=300.0, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results.")
def main(
    bundle: Path,
    video: Path,
    only: tuple[str, ...],
    mutants: int,
    seconds: float,
    soak_seconds: float,
    json_path: Path | None,
) -> None:
    """Try to break a server; exit code 1 where something was wrong or lost."""
    with Predictor(bundle, backend="onnxruntime", threads=1) as predictor:
        material = Material(good_requests(predictor, video.read_bytes()), video.read_bytes())
        names = only or ("fuzz", "clients", "hostile", "soak", "sigterm")
        runs: dict[str, Run] = {
            "clients": lambda client, server, seen: many_clients(client, material, seconds, seen),
            "hostile": lambda client, server, seen: hostile(client, server, material, seconds, seen),
            "soak": lambda client, server, seen: closed(client, clips, SOAK_CLIENTS, soak_seconds, seen),
            "sigterm": lambda client, server, seen: sigterm(client, server, material, seconds, seen),
        }
        if "soak" in names:
            clips = soak_requests(predictor, video)
        if "fuzz" in names:
            corpus = [mutated(material.video, number) for number in range(mutants)]
            requests = [Request(media(data), alone(predictor, data, None)) for data in corpus]
            runs["fuzz"] = lambda client, server, seen: each_once(client, requests, seen)
    results = []
    for name in names:
        with serving(bundle, ["--backend", "onnxruntime", *OPTIONS.get(name, [])]) as server:
            found = asyncio.run(watch(name, server, runs[name]))
        results.append(replace(found, left=server.left))
        click.echo(line(results[-1]))
    if json_path:
        text = json.dumps({"environment": asdict(describe()), "results": [asdict(each) for each in results]}, indent=2)
        write_text(json_path, text + "\n")
    raise SystemExit(not all(each.passed for each in results))


def good_requests(predictor: Predictor, video: bytes) -> list[Request]:
    """Videos with different words and windows, and tensors: all with their answers."""
    made = [Request(media(video, text), alone(predictor, video, text)) for text in TEXTS]
    made.append(Request(media(video, window=1.0), alone(predictor, video, None, window=1.0)))
    for utterance in stratified(synthetic("iemocap"), 8).utterances:
        sample = make_sample(utterance)
        made.append(Request(tensors(sample), predictor.network.logits([sample])["logits"].astype(np.float64)))
    made.append(Request(media(b"no video at all"), "bad_media"))
    return made


def soak_requests(predictor: Predictor, video: Path) -> list[Request]:
    """Clips of different lengths and words, cut from the video; no two answers are near each other."""
    part = stratified(synthetic("iemocap"), SOAK_CLIPS)
    folder = clip_folder(video, part)
    made = []
    for utterance in part.utterances:
        clip = make_clip(video, folder, utterance)
        data = clip.path.read_bytes()
        made.append(Request(media(data, clip.text), alone(predictor, data, clip.text)))
    check_distinct([each.expected for each in made if isinstance(each.expected, np.ndarray)], TOLERANCE)
    return made


def alone(predictor: Predictor, data: bytes, text: str | None, window: float | None = None) -> np.ndarray | str:
    """The fused logits of the same file predicted alone, or the code of the rejection it must get."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            found = [list(each.logits.values()) for each in predictor.predict(file.name, text=text, window=window)]
        except BadDataError:
            return "bad_media"
        except MmxError:
            return "bad_request"
    return np.array(found)


def mutated(data: bytes, number: int) -> bytes:
    """The video with something wrong: bits, bytes, blocks or its end; seeded by its number."""
    random = np.random.default_rng([SEED, number])
    changed = bytearray(data)
    at = int(random.integers(len(data)))
    length = min(2 ** int(random.integers(0, 12)), len(data) - at)
    kind = number % 6
    if kind == 0:
        for position in random.integers(0, len(data), 1 + number % 40):
            changed[position] ^= 1 << int(random.integers(8))
    elif kind == 1:
        changed[at : at + length] = random.bytes(length)
    elif kind == 2:
        del changed[at:]
    elif kind == 3:
        changed[at : at + length] = bytes(length)
    elif kind == 4:
        changed[at:at] = changed[at : at + length]
    else:  # in the index, where sizes, counts and times are
        start = data.find(b"moov")
        position = int(random.integers(start, len(data))) if start >= 0 else at
        changed[position : position + 4] = bytes([255, 255, 255, int(random.integers(256))])
    return bytes(changed)


async def watch(name: str, server: ServerProcess, run: Run) -> Result:
    """Run, and look at the server's memory all the while."""
    outcomes = Outcomes()
    sizes: list[float] = []

    async def look() -> None:
        while True:
            sizes.append(server.rss_mb())
            await asyncio.sleep(SAMPLE_S)

    started = time.perf_counter()
    looking = asyncio.create_task(look())
    async with Client(server.url) as client:
        await run(client, server, outcomes)
    looking.cancel()
    took = time.perf_counter() - started
    exit_code = server.wait() if name == "sigterm" else None
    replaced = {} if name == "sigterm" else replaced_decoders(server)
    quarter = max(1, len(sizes) // 4)
    return Result(
        name=name,
        seconds=took,
        sent=outcomes.sent,
        answered=len(outcomes.seconds),
        rejected=dict(outcomes.rejected),
        unconnected=outcomes.unconnected,
        wrong=outcomes.wrong,
        lost=outcomes.lost,
        replaced=replaced,
        rss_mb_early=float(np.median(sizes[quarter : 2 * quarter] or sizes)),
        rss_mb_late=float(np.median(sizes[-quarter:])),
        exit_code=exit_code,
    )


async def each_once(client: Client, requests: Sequence[Request], outcomes: Outcomes) -> None:
    """Every request once, several at a time."""
    queue = iter(requests)

    async def one() -> None:
        for request in queue:
            await client.send(request, time.perf_counter(), outcomes)

    await asyncio.gather(*(one() for _ in range(FUZZ_CLIENTS)))


async def closed(client: Client, requests: Sequence[Request], clients: int, seconds: float, outcomes: Outcomes) -> None:
    """So many clients that never pause."""
    found, _ = await client.closed_loop(requests, clients, seconds)
    outcomes.add(found)


async def many_clients(client: Client, material: Material, seconds: float, outcomes: Outcomes) -> None:
    """200 at a time, more than the queue holds."""
    await closed(client, material.good, MANY_CLIENTS, seconds, outcomes)


async def hostile(
    client: Client, server: ServerProcess, material: Material, seconds: float, outcomes: Outcomes
) -> None:
    """Four honest clients among those that break off, dawdle and leave, while processes are killed."""
    ends = time.monotonic() + seconds
    host, port = server.url.removeprefix("http://").split(":")
    head = "POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: multipart/form-data; boundary=a\r\n"
    form = b'--a\r\ncontent-disposition: form-data; name="video"\r\n\r\n' + material.video + b"\r\n--a--\r\n"

    async def bad_sender(number: int) -> None:
        random = np.random.default_rng([SEED, number])
        while time.monotonic() < ends:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(10):
                    reader, writer = await asyncio.open_connection(host, int(port))
                    writer.write(f"{head}content-length: {len(form)}\r\n\r\n".encode())
                    if number % 3 == 0:  # breaks off
                        writer.write(form[: int(random.integers(len(form)))])
                    elif number % 3 == 1:  # a byte now and then, then nothing
                        for byte in form[:20]:
                            writer.write(bytes([byte]))
                            await asyncio.sleep(0.05)
                        await reader.read()
                    else:  # leaves before the answer
                        writer.write(form)
                        await asyncio.sleep(float(random.uniform(0, 0.5)))
                    await writer.drain()
                    writer.close()
            await asyncio.sleep(0.02)

    async def killer() -> None:
        while time.monotonic() < ends:
            await asyncio.sleep(KILL_EVERY_S)
            for worker in server.workers()[:1]:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)

    honest = closed(client, material.good, 4, seconds, outcomes)
    await asyncio.gather(honest, killer(), *(bad_sender(number) for number in range(12)))


async def sigterm(
    client: Client, server: ServerProcess, material: Material, seconds: float, outcomes: Outcomes
) -> None:
    """More than the server can do, and SIGTERM when it is full."""
    _, capacity = await client.closed_loop(material.good, 8, seconds / 4)
    loop = asyncio.get_running_loop()
    loop.call_later(seconds / 4, server.terminate)
    outcomes.add(await client.open_loop(material.good, RATE_OVER * capacity, seconds / 2))


def replaced_decoders(server: ServerProcess) -> dict[str, int]:
    """The server's count of processes it had to replace."""
    found = {}
    for text in httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines():
        if text.startswith("mmx_workers_replaced_total{"):
            found[text.split('"')[1]] = int(float(text.split()[-1]))
    return found


def line(result: Result) -> str:
    """A result in words."""
    rejected = ", ".join(f"{count} {code}" for code, count in sorted(result.rejected.items())) or "none"
    replaced = ", ".join(f"{count} {reason}" for reason, count in sorted(result.replaced.items())) or "none"
    return (
        f"{result.name:8} {'passed' if result.passed else 'FAILED'}: {result.sent} sent in {result.seconds:.0f} s, "
        f"{result.answered} answered, rejected: {rejected}; {result.unconnected} found the port closed; "
        f"{len(result.wrong)} wrong, {len(result.lost)} lost {[*result.wrong, *result.lost][:3] or ''}; "
        f"processes replaced: {replaced}; {result.rss_mb_early:.0f} -> {result.rss_mb_late:.0f} MB; "
        f"left behind: {', '.join(result.left) or 'nothing'}"
    )


if __name__ == "__main__":
    main()
