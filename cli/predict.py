"""``mmx predict``: the emotions in media files."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmx.cli.command import Renamed, command, say, verbose
from mmx.cli.main import print_error
from mmx.cli.options import shared
from mmx.cli.paths import BUNDLE, OutFile
from mmx.cli.render import describe, printable, render
from mmx.cli.running import Running, runs_files
from mmx.cli.signals import end_like_ctrl_c
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import MmxError, UsageError
from mmx.runtime.urls import is_url, shown

if TYPE_CHECKING:
    from mmx.runtime.prediction import Prediction
    from mmx.runtime.predictor import Predictor
    from mmx.runtime.throughput import FileResult, Pipeline
    from mmx.runtime.workers.task import Task
    from mmx.serving.batch.results import Results

Report = Callable[[str, MmxError], None]


@command(renamed=[Renamed("--jobs", "--workers")])
@click.argument("bundle", type=BUNDLE)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--text", multiple=True, help="What is said in the file (repeat it, in order, for several files).")
@click.option(
    "--transcript",
    multiple=True,
    help="A .txt, .srt or .vtt file; each cue is one utterance (repeat it, in order, for several files).",
)
@shared("--window")
@shared("--json", "as_json", help="Print one JSON object per line and segment (docs/predict.md).")
@runs_files
@click.option("--html", type=OutFile(), help="Also write a page with player and timeline.")
@click.option("--render", "rendered", type=OutFile(), help="Also draw the predictions into an .mp4.")
@shared("--workers", help="Read the files in this many processes.  [default: one file after another, in this one]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write each file's record, errors included, as soon as it is known (JSON Lines; .csv: CSV), by --workers.",
)
@shared("--format", "form")
@shared("--resume", help="Go on with --out: skip the files that it has predictions for.")
@shared("--batch-size", help="Utterances in a batch, at most.  [default: 4; with --workers, as many as fit]")
def predict(
    bundle: Path,
    files: tuple[str, ...],
    text: tuple[str, ...],
    transcript: tuple[str, ...],
    window: float | None,
    as_json: bool,
    running: Running,
    html: Path | None,
    rendered: Path | None,
    workers: int | None,
    out: Path | None,
    form: str | None,
    resume: bool,
    batch_size: int | None,
) -> int:
    """Predict the emotions in video (or sound) files, for each utterance or window, as they come.

    FILE may also be an HTTP or HTTPS URL.

    Without --text or --transcript, the speech is recognised (--asr); where that cannot be done, the prediction is made
    without words. A file that cannot be read is reported and the next one follows; the exit code is that of the worst.

    \b
    mmx predict ckpt.mmx talk.mp4 --transcript talk.srt
    mmx predict ckpt.mmx *.mp4 --window 2 --json > emotions.jsonl
    mmx predict ckpt.mmx DIR/*.mp4 --workers 4 --out emotions.jsonl --resume
    """
    if text and transcript:
        raise UsageError("--text and --transcript were both given", "give one of them")
    if (url := next(filter(is_url, files), None)) and (workers or out or html or rendered):
        raise UsageError(
            f"{shown(url)} is a URL; --workers, --out, --html and --render take files",
            "download it, or: mmx batch BUNDLE URL --out results",
        )
    if folder := next((file for file in files if Path(file).is_dir()), None):
        raise UsageError(
            f"{folder} is a folder; mmx predict reads files",
            f"mmx batch {shlex.quote(str(bundle))} {shlex.quote(folder)} --out results",
        )
    if rendered and len(files) > 1:
        raise UsageError(f"--render draws into one video; there are {len(files)} files", "render one at a time")
    if resume and (html or not out):
        raise UsageError("--resume goes on with --out" + (", of which --html shows only a part" if out else ""))
    running.check()
    if rendered:  # before the work, if Pillow is missing
        from mmx.view.overlay import burn
    codes = [0]
    errors: dict[str, str] = {}
    kept: dict[str, list[Prediction]] = defaultdict(list)

    def report(file: str, error: MmxError) -> None:
        print_error(error.message, error.hint)
        errors[file] = error.message
        codes.append(error.exit_code)

    options = running.options() | ({"batch_size": batch_size} if batch_size else {})
    with ExitStack() as closing:
        opened: Predictor | Pipeline
        if workers or out:
            from mmx.runtime.predictor import one_each
            from mmx.runtime.throughput import Pipeline
            from mmx.runtime.workers.task import Task

            end_like_ctrl_c()
            said = one_each("text", text or None, files), one_each("transcript", transcript or None, files)
            tasks = [
                Task(*each, window, running.tracks, people=running.people) for each in zip(files, *said, strict=True)
            ]
            opened = closing.enter_context(Pipeline(bundle, workers=workers, limits=running.limits, **options))
            if out:
                from mmx.serving.batch.run import SUFFIXES, open_results

                made = running.made_with(opened.bundle, opened.backend.precision, window)
                form = form or SUFFIXES.get(out.suffix.lower(), "jsonl")
                results = closing.enter_context(open_results(out, form, opened.bundle, made, resume=resume))
                predictions = _recorded(opened, tasks, results, report)
            else:
                predictions = _side_by_side(opened.run(tasks), report)
        else:
            checked = Bundle.open(bundle, beside=True)  # hashing goes on while the rest is imported
            from mmx.runtime.predictor import Predictor

            one_each_file = window is None and not transcript
            options["utterances"] = len(files) if one_each_file else None
            opened = closing.enter_context(Predictor(checked, wait=False, **options))
            predictions = opened.predict(
                files,
                text=text or None,
                transcript=transcript or None,
                window=window,
                tracks=running.tracks,
                people=running.people,
                on_error=report,
            )
        manifest = opened.bundle.manifest
        thresholds = dict(zip(manifest.labels, manifest.thresholds, strict=True))
        described = as_json
        for prediction in predictions:
            if not described:  # not before: the network may still be loading
                click.echo(describe(opened, verbose()))
                described = True
            if as_json or not out:
                click.echo(prediction.to_json() if as_json else render(prediction))
            if html or rendered:
                kept[prediction.file].append(prediction)
    if html:
        from mmx.view.report import FileAnswers, write_report

        html.parent.mkdir(parents=True, exist_ok=True)
        write_report(html, manifest, [FileAnswers(Path(f), kept[f], errors.get(f)) for f in dict.fromkeys(files)])
    if rendered and not errors:
        rendered.parent.mkdir(parents=True, exist_ok=True)
        burn(Path(files[0]), rendered, kept[files[0]], thresholds)
    return max(codes)


def _side_by_side(results: Iterator[FileResult], report: Report) -> Iterator[Prediction]:
    """The predictions of each file."""
    for result in results:
        if result.error:
            report(result.file, result.error)
        yield from result.predictions


def _recorded(pipeline: Pipeline, tasks: Sequence[Task], results: Results, report: Report) -> Iterator[Prediction]:
    """The predictions of each file that is not done yet, after its record is written."""
    from mmx.serving.batch.run import collect, predict_here
    from mmx.view.terminal import Progress

    with Progress(quiet_elsewhere=True) as bar:
        for progress, record in collect(tasks, lambda asked: predict_here(pipeline, asked), results, retry=True):
            if record is None:
                continue
            bar.update(f"files, {progress.failed} failed", progress.done, progress.total)
            if record.error:
                report(record.file, record.error)
            yield from record.predictions
    counts = f"{progress.answered} files answered, {progress.failed} failed, {progress.skipped} done before"
    say(f"{printable(str(results.path))}: {counts}")
