"""``mmx live``: the emotions in a camera or a stream, while it goes on."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from mmx.cli.command import command, note, say
from mmx.cli.options import certainty_of, check_people, shared
from mmx.cli.paths import BUNDLE, OutFile
from mmx.cli.render import describe, printable
from mmx.cli.signals import end_like_ctrl_c
from mmx.runtime.errors import UsageError

if TYPE_CHECKING:
    from mmx.runtime.live.live import LiveCounts, LivePrediction


@command()
@click.argument("bundle", type=BUNDLE)
@click.argument("source")
@shared("--window", default="3", help="Seconds of a window.")
@click.option("--hop", type=click.FloatRange(0.1, 60), default=0.5, show_default=True, help="Seconds between answers.")
@click.option(
    "--pace", type=click.Choice(["real", "none"]), default="real", show_default=True,
    help="Play a file as a camera would, or read it as fast as it is answered.",
)  # fmt: skip
@click.option(
    "--max-lag", type=click.FloatRange(0.05, 60), default=1.0, show_default=True,
    help="Seconds after which a frame that was not looked at is dropped.",
)  # fmt: skip
@click.option(
    "--reconnect", type=click.FloatRange(0), default=30.0, show_default=True,
    help="Seconds for which a source that is lost is tried again.",
)  # fmt: skip
@click.option("--record", type=OutFile(), help="Also write each answer to this new file (JSON Lines); no video.")
@shared("--json", "as_json", help="Print one JSON object per line and answer (docs/live.md).")
@shared("--backend")
@shared("--device")
@shared("--precision")
@shared("--on-mismatch")
@shared("--faces")
@shared("--people")
@shared("--min-confidence")
@shared("--max-error")
@shared("--threads")
@shared("--file-memory")
@shared("--file-pixels")
def live(
    bundle: Path,
    source: str,
    window: float | None,
    hop: float,
    pace: str,
    max_lag: float,
    reconnect: float,
    record: Path | None,
    as_json: bool,
    backend: str,
    device: str | None,
    precision: str,
    on_mismatch: str,
    faces: str,
    people: str,
    min_confidence: float | None,
    max_error: float | None,
    threads: int | None,
    file_memory: int,
    file_pixels: int,
) -> None:
    """Predict the emotions in SOURCE while it goes on: a camera, a stream, or a file that is played.

    SOURCE is the number of a camera (0), a device, a URL (http, https, rtsp, rtmp), a named pipe, "-" for stdin, or a
    file. Ctrl-C ends it with a summary.

    \b
    mmx live ckpt.mmx 0
    mmx live ckpt.mmx rtsp://camera.local/main --json
    mmx live ckpt.mmx talk.mp4 --record answers.jsonl
    """
    from mmx.runtime.live.live import Live
    from mmx.runtime.workers.task import Limits
    from mmx.view.live import LiveView

    if window is None:
        raise UsageError("--window utterance: a stream has no utterances yet", "--window 3")
    check_people(people, faces)
    end_like_ctrl_c()
    tally = Tally()
    with ExitStack() as closing:
        out = closing.enter_context(_new_file(record)) if record else None
        running = closing.enter_context(
            Live(
                bundle,
                source,
                window=window,
                hop=hop,
                pace=pace,
                max_lag=max_lag,
                reconnect_s=reconnect,
                backend=backend,
                device=device,
                precision=precision,
                threads=threads,
                on_mismatch=on_mismatch,
                faces=faces,
                people=people,
                certainty=certainty_of(min_confidence, max_error),
                limits=Limits(memory=file_memory * 2**20, pixels=file_pixels),
                on_lost=lambda reason: note(f"{printable(reason)}; trying again"),
            )
        )
        say(describe(running))
        closing.callback(lambda: say(tally.summary(running.counts)))
        view = None if as_json else closing.enter_context(LiveView(running.bundle.manifest.labels, running.name))
        with suppress(KeyboardInterrupt):  # as a camera's user ends it
            for each in running:
                tally.add(each)
                if out:
                    out.write(each.prediction.to_json() + "\n")
                    out.flush()
                if view:
                    view.show(each)
                else:
                    click.echo(to_json(each))


def to_json(each: LivePrediction) -> str:
    """A prediction's own fields, and under ``live`` how late it is."""
    live = {
        "lag_s": each.lag_s if each.lag_s is None else round(each.lag_s, 4),
        "dropped": each.dropped,
        "skipped": each.skipped,
        "reconnects": each.reconnects,
    }
    return json.dumps({**each.prediction.to_dict(), "live": live}, allow_nan=False)


class Tally:
    """How often each label was given."""

    def __init__(self) -> None:
        self._labels: Counter[str] = Counter()
        self._last = 0.0

    def add(self, each: LivePrediction) -> None:
        """Count an answer."""
        self._labels.update(each.prediction.labels or ("none",))
        self._last = max(self._last, each.prediction.end)

    def summary(self, counts: LiveCounts) -> str:
        """Lines for the end."""
        share = ", ".join(f"{label} {count}" for label, count in self._labels.most_common())
        kept = f"{counts.dropped} frames dropped, {counts.skipped} windows skipped, {counts.reconnects} times lost"
        lag = f"; {counts.lag(0.5):.2f} s behind (median), {counts.lag(0.95):.2f} s (95 %)" if counts.lags else ""
        return f"{self._last:.1f} s, {counts.answered} answers ({share or 'no label'})\n{kept}{lag}"


def _new_file(path: Path) -> TextIO:
    """A file that is not there yet, or is empty."""
    if path.exists() and path.stat().st_size:
        raise UsageError(f"{path} holds something", "give the name of a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    opened: Any = path.open("w", encoding="ascii")
    file: TextIO = opened
    return file
