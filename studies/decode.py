"""What decoding costs with and without looking ahead: python studies/decode.py VIDEO... [--json FILE]

Each file is decoded to the RGB frames that mmx looks at, once with every frame decoded and once with only those that
they depend on (``mmx.runtime.media.skipping``), turn and turn about; what counts is CPU time, of all threads. A file
whose frames differ has no speed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import click
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from mmx.evaluation.environment import describe
from mmx.evaluation.statistics import Latency, Ratio, latency, speedup
from mmx.runtime.files import write_text
from mmx.runtime.manifest import VideoSpec
from mmx.runtime.media.container import probe
from mmx.runtime.media.decode import VideoTrack, upright_rgb
from mmx.runtime.media.skipping import Looks

INTERVAL_S = VideoSpec().interval_s


@dataclass(frozen=True)
class Result:
    """One file. ``all_ms`` and ``ahead_ms``: to all frames looked at; ``ratio``: None where those are not the same."""

    video: str
    codec: str
    width: int
    height: int
    seconds: float
    threads: int
    looked_at: int
    frames: int
    decoded: int
    open_ms: Latency
    all_ms: Latency
    ahead_ms: Latency
    ratio: Ratio | None

    def line(self) -> str:
        """The result as one line of text."""
        head = f"{self.video} {self.codec} {self.width}x{self.height} {self.seconds:.1f} s, threads {self.threads}: "
        counts = f"{self.decoded} of {self.frames} frames decoded for {self.looked_at}; "
        if self.ratio is None:
            return head + "NOT THE SAME FRAMES, so no speed"
        times = f"{self.all_ms.p50:.1f} -> {self.ahead_ms.p50:.1f} ms (opening {self.open_ms.p50:.1f}), {self.ratio}"
        return head + counts + times


def looked_at(seconds: float, end: float) -> bool:
    """Whether a frame on screen from ``seconds`` to ``end`` is one of those that are looked at."""
    return math.ceil(seconds / INTERVAL_S - 1e-6) * INTERVAL_S < end - 1e-6


def read(path: Path, threads: int, looks: Looks | None) -> tuple[list[NDArray[np.uint8]], int]:
    """The frame on screen at each interval's start as RGB, and how many frames were decoded."""
    taken: list[NDArray[np.uint8]] = []
    with VideoTrack(path, threads, looks) as track:
        before: tuple[float, VideoFrame] | None = None
        for seconds, frame in track:
            if before and looked_at(before[0], seconds):
                taken.append(upright_rgb(before[1]))
            before = seconds, frame
        return taken, track.decoded


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time that a call takes, in all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(path: Path, threads: int, passes: int) -> Result:
    """Read the file both ways, ``passes`` times each."""
    info = probe(path)
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context.codec.canonical_name
    ways = partial(read, path, threads, None), partial(read, path, threads, looked_at)
    (every, frames), (ahead, decoded) = (way() for way in ways)
    same = len(every) == len(ahead) and all(map(np.array_equal, every, ahead))
    seconds, opening = np.zeros((passes, 2)), []
    for turn in range(passes):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            seconds[turn, which] = cpu_seconds(ways[which])
        opening.append(cpu_seconds(partial(probe, path)))
    return Result(
        video=path.name,
        codec=codec,
        width=info.width,
        height=info.height,
        seconds=info.duration or 0.0,
        threads=threads,
        looked_at=len(ahead),
        frames=frames,
        decoded=decoded,
        open_ms=latency(opening),
        all_ms=latency(seconds[:, 0]),
        ahead_ms=latency(seconds[:, 1]),
        ratio=speedup(seconds[:, 0], seconds[:, 1]) if same else None,
    )


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--threads", multiple=True, default=(1,), show_default=True, help="Of the decoder; may be repeated.")
@click.option("--passes", default=8, show_default=True, help="Timed readings of each file.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here, too.")
def main(videos: tuple[Path, ...], threads: tuple[int, ...], passes: int, out: Path | None) -> None:
    """Measure how long VIDEOS take to decode to the frames that mmx looks at."""
    results = []
    for video in videos:
        for count in threads:
            results.append(measure(video, count, passes))
            click.echo(results[-1].line())
    if out:
        report = {"environment": asdict(describe()), "results": [asdict(result) for result in results]}
        write_text(out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
