"""What ``mmx predict``, ``batch`` and ``serve`` have in common: the options of what answers, and how it reads media."""

from __future__ import annotations

import math

import click

from mmx.runtime.probabilities import Certainty


class Window(click.ParamType[float | None]):
    """``utterance`` (None) or a number of seconds."""

    name = "utterance|SECONDS"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Parse the option's value."""
        if value == "utterance":
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            self.fail(f"{value!r} is neither 'utterance' nor a number of seconds over 0", param, ctx)
        return seconds


window = click.option(
    "--window", type=Window(), default="utterance", show_default=True, help="Cut by utterance, or in fixed windows."
)
backend = click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="auto, onnxruntime, openvino, onnxruntime-cuda, tensorrt-rtx or tensorrt.",
)
device = click.option("--device", help="cpu, cuda, or cuda:1 for the second of several GPUs.")
precision = click.option(
    "--precision", default="fp32", show_default=True, help="fp32, bf16, or another that the bundle holds."
)
on_mismatch = click.option(
    "--on-mismatch",
    type=click.Choice(["error", "rebuild", "onnx"]),
    default="error",
    show_default=True,
    help="When the TensorRT engine is of another GPU, version or graph.",
)
faces = click.option(
    "--faces",
    type=click.Choice(["exact", "fast", "large", "track"]),
    default="exact",
    show_default=True,
    help="How faces are searched for; docs/faces.md says what each costs and saves.",
)
asr = click.option(
    "--asr",
    default="auto",
    show_default=True,
    help="What recognises speech where no words are given: auto, none, a model's folder or name (mmx asr list).",
)
language = click.option(
    "--language", help="What is spoken (en, de, ...); detected if not given, where that is possible."
)
min_confidence = click.option(
    "--min-confidence",
    metavar="P",
    type=click.FloatRange(0, 1),
    help="Give no label where the most probable one has less, such as 0.6; the answer then says why.",
)
max_error = click.option(
    "--max-error",
    metavar="E",
    type=click.FloatRange(0, 1),
    help="Give labels only so that at most this share of answers is wrong, such as 0.1 (needs mmx calibrate "
    "--probabilities).",
)
video_track = click.option(
    "--video-track", type=click.IntRange(min=0), help="Which video track, from 0; the file's default one if not given."
)
audio_track = click.option(
    "--audio-track", type=click.IntRange(min=0), help="Which audio track, from 0; the file's default one if not given."
)
file_seconds = click.option(
    "--file-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=3600,
    show_default=True,
    help="What a worker may spend on one file.",
)
file_memory = click.option(
    "--file-memory", type=click.IntRange(min=512), default=3072, show_default=True, help="MB that a worker may use."
)
file_pixels = click.option(
    "--file-pixels", type=click.IntRange(min=1), default=36_000_000, show_default=True, help="Of a picture, at most."
)
workers = click.option("--workers", type=click.IntRange(min=1), help="Processes that read files; one for each core.")
results_format = click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv", "parquet"]),
    help="Of the results; known by the ending of --out (.jsonl, .csv) if not given.",
)


jobs = click.option("--jobs", type=click.IntRange(min=1), hidden=True)


def certainty_of(min_confidence: float | None, max_error: float | None) -> Certainty | None:
    """--min-confidence and --max-error; None where neither is given."""
    if min_confidence is None and max_error is None:
        return None
    return Certainty(min_confidence, max_error)


def workers_of(workers: int | None, jobs: int | None) -> int | None:
    """--workers, or what it was called before."""
    if jobs:
        click.echo("mmx: note: --jobs is called --workers now", err=True)
    return workers or jobs
