"""``mmx predict``: the emotions in media files, from a bundle alone."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmx.cli.main import print_error
from mmx.cli.render import describe, render
from mmx.runtime.errors import MmxError, UsageError

if TYPE_CHECKING:
    from mmx.runtime.types import Prediction

SCHEMA_VERSION = 1


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


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--text", multiple=True, help="What is said in the file (repeat it, in order, for several files).")
@click.option(
    "--transcript",
    multiple=True,
    help="A .txt, .srt or .vtt file; each cue is one utterance (repeat it, in order, for several files).",
)
@click.option(
    "--window", type=Window(), default="utterance", show_default=True, help="Cut by utterance, or in fixed windows."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line and segment (see docs/predict.md).")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="auto, onnxruntime, openvino, onnxruntime-cuda, tensorrt-rtx or tensorrt.",
)
@click.option("--precision", default="fp32", show_default=True, help="fp32, bf16, or another that the bundle holds.")
@click.option(
    "--on-mismatch",
    type=click.Choice(["error", "rebuild", "onnx"]),
    default="error",
    show_default=True,
    help="When the TensorRT engine is of another GPU, version or graph.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all cores if not given.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page with player and timeline."
)
@click.option(
    "--render", "rendered", type=click.Path(path_type=Path, dir_okay=False), help="Also draw the answers into an .mp4."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Segments at once.")
def predict(
    bundle: Path,
    files: tuple[str, ...],
    text: tuple[str, ...],
    transcript: tuple[str, ...],
    window: float | None,
    as_json: bool,
    backend: str,
    precision: str,
    on_mismatch: str,
    threads: int | None,
    html: Path | None,
    rendered: Path | None,
    batch_size: int,
) -> int:
    """Tell the emotions in video (or sound) files, one answer per utterance or window, as they come.

    Without --text or --transcript the text is left out of the answer. A file that can't be read is reported and the
    next one follows; the exit code is then that of the worst.

    \b
    mmx predict ckpt.mmx talk.mp4 --transcript talk.srt
    mmx predict ckpt.mmx *.mp4 --window 2 --json > emotions.jsonl
    """
    from mmx.runtime.predictor import Predictor  # here, so that --help needs no engine

    if text and transcript:
        raise UsageError("--text and --transcript were both given", "give one of them")
    if rendered and len(files) > 1:
        raise UsageError(f"--render draws into one video; there are {len(files)} files", "render one at a time")
    codes = [0]
    errors: dict[str, str] = {}
    kept: dict[str, list[Prediction]] = defaultdict(list)

    def report(file: str, error: MmxError) -> None:
        print_error(error.message, error.hint)
        errors[file] = error.message
        codes.append(error.exit_code)

    with Predictor(
        bundle,
        backend=backend,
        precision=precision,
        threads=threads,
        batch_size=batch_size,
        on_mismatch=on_mismatch,
    ) as predictor:
        predictions = predictor.predict(
            files, text=text or None, transcript=transcript or None, window=window, on_error=report
        )
        if not as_json:
            click.echo(describe(predictor))
        manifest = predictor.bundle.manifest
        thresholds = dict(zip(manifest.labels, manifest.thresholds, strict=True))
        for prediction in predictions:
            click.echo(to_json(prediction) if as_json else render(prediction, thresholds))
            if html or rendered:
                kept[prediction.file].append(prediction)
    if html:
        from mmx.serving.view.report import FileAnswers, write_report

        write_report(html, manifest, [FileAnswers(Path(f), kept[f], errors.get(f)) for f in dict.fromkeys(files)])
    if rendered and not errors:
        from mmx.serving.view.overlay import burn

        burn(Path(files[0]), rendered, kept[files[0]], thresholds)
    return max(codes)


def to_json(prediction: Prediction) -> str:
    """One line of JSON: the fields of ``Prediction`` and ``schema_version``. Never NaN or Infinity.

    ASCII only, so that it is the same in every locale, and file names that are not Unicode survive.
    """
    line = {"schema_version": SCHEMA_VERSION, **asdict(prediction)}
    line["timings_ms"] = {stage: round(ms, 3) for stage, ms in prediction.timings_ms.items()}
    return json.dumps(line, allow_nan=False)
