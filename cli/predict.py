"""``mmx predict``: the emotions in media files, from a bundle alone."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmx.cli import model_options as model
from mmx.cli.main import print_error
from mmx.cli.out_file import OutFile
from mmx.cli.render import describe, printable, render
from mmx.cli.results_file import ResultsFile, made_with, not_done
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import MmxError, UsageError

if TYPE_CHECKING:
    from mmx.runtime.prediction import Prediction
    from mmx.runtime.predictor import Predictor
    from mmx.runtime.throughput import FileResult, Pipeline

Report = Callable[[str, MmxError], None]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--text", multiple=True, help="What is said in the file (repeat it, in order, for several files).")
@click.option(
    "--transcript",
    multiple=True,
    help="A .txt, .srt or .vtt file; each cue is one utterance (repeat it, in order, for several files).",
)
@model.window
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line and segment (see docs/predict.md).")
@model.backend
@model.device
@model.precision
@model.on_mismatch
@model.faces
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all cores if not given.")
@click.option("--html", type=OutFile(), help="Also write a page with player and timeline.")
@click.option("--render", "rendered", type=OutFile(), help="Also draw the answers into an .mp4.")
@click.option("--jobs", type=click.IntRange(min=1), help="Read so many files side by side; batch over all.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a line of JSON for each file, errors included, as soon as it is known (implies --jobs).",
)
@click.option("--resume", is_flag=True, help="Go on with --out: skip the files that it has answers for.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Segments at once; 4 if not given, with --jobs as many as fit."
)
def predict(
    bundle: Path,
    files: tuple[str, ...],
    text: tuple[str, ...],
    transcript: tuple[str, ...],
    window: float | None,
    as_json: bool,
    backend: str,
    device: str | None,
    precision: str,
    on_mismatch: str,
    faces: str,
    threads: int | None,
    html: Path | None,
    rendered: Path | None,
    jobs: int | None,
    out: Path | None,
    resume: bool,
    batch_size: int | None,
) -> int:
    """Tell the emotions in video (or sound) files, one answer per utterance or window, as they come.

    Without --text or --transcript the text is left out of the answer. A file that can't be read is reported and the
    next one follows; the exit code is then that of the worst.

    \b
    mmx predict ckpt.mmx talk.mp4 --transcript talk.srt
    mmx predict ckpt.mmx *.mp4 --window 2 --json > emotions.jsonl
    mmx predict ckpt.mmx DIR/*.mp4 --jobs 4 --out emotions.jsonl --resume
    """
    if text and transcript:
        raise UsageError("--text and --transcript were both given", "give one of them")
    if rendered and len(files) > 1:
        raise UsageError(f"--render draws into one video; there are {len(files)} files", "render one at a time")
    if resume and (html or not out):
        raise UsageError("--resume goes on with --out" + (", of which --html shows only a part" if out else ""))
    codes = [0]
    errors: dict[str, str] = {}
    kept: dict[str, list[Prediction]] = defaultdict(list)

    def report(file: str, error: MmxError) -> None:
        print_error(error.message, error.hint)
        errors[file] = error.message
        codes.append(error.exit_code)

    options: dict[str, Any] = {
        "backend": backend,
        "device": device,
        "precision": precision,
        "threads": threads,
        "on_mismatch": on_mismatch,
        "faces": faces,
    }
    if batch_size:
        options["batch_size"] = batch_size
    with ExitStack() as closing:
        opened: Predictor | Pipeline
        if jobs or out:
            from mmx.runtime.predictor import one_each
            from mmx.runtime.throughput import Item, Pipeline

            said = one_each("text", text or None, files), one_each("transcript", transcript or None, files)
            items = iter([Item(*each, window) for each in zip(files, *said, strict=True)])
            opened = closing.enter_context(Pipeline(bundle, jobs=jobs, **options))
            results = None
            if out:
                made = made_with(opened.bundle.manifest, precision, window, faces)
                results = closing.enter_context(ResultsFile(out, made, resume=resume))
                items = not_done(items, results.done)
            predictions = _side_by_side(opened.run(items), results, len(files), report)
        else:
            checked = Bundle.open(bundle, beside=True)  # hashing goes on while the rest is imported
            from mmx.runtime.predictor import Predictor

            one_each_file = window is None and not transcript
            options["utterances"] = len(files) if one_each_file else None
            opened = closing.enter_context(Predictor(checked, wait=False, **options))
            predictions = opened.predict(
                files, text=text or None, transcript=transcript or None, window=window, on_error=report
            )
        manifest = opened.bundle.manifest
        thresholds = dict(zip(manifest.labels, manifest.thresholds, strict=True))
        described = as_json
        for prediction in predictions:
            if not described:  # not before: the network may still be loading
                click.echo(describe(opened))
                described = True
            if as_json or not out:
                click.echo(prediction.to_json() if as_json else render(prediction, thresholds))
            if html or rendered:
                kept[prediction.file].append(prediction)
    if html:
        from mmx.view.report import FileAnswers, write_report

        html.parent.mkdir(parents=True, exist_ok=True)
        write_report(html, manifest, [FileAnswers(Path(f), kept[f], errors.get(f)) for f in dict.fromkeys(files)])
    if rendered and not errors:
        from mmx.view.overlay import burn

        rendered.parent.mkdir(parents=True, exist_ok=True)
        burn(Path(files[0]), rendered, kept[files[0]], thresholds)
    return max(codes)


def _side_by_side(
    answers: Iterator[FileResult], results: ResultsFile | None, total: int, report: Report
) -> Iterator[Prediction]:
    """The predictions of each file's result, which is written down first; on a terminal, how far the run is."""
    skipped = results.done.total() if results else 0
    answered = failed = 0
    for result in answers:
        if results:
            results.write(result)
        if result.error:
            report(result.file, result.error)
        failed += result.error is not None
        answered += result.error is None
        if results and sys.stderr.isatty():
            click.echo(f"\r{skipped + answered + failed} of {total} files, {failed} failed ", nl=False, err=True)
        yield from result.predictions
    if results:
        counts = f"{answered} files answered, {failed} failed, {skipped} done before"
        click.echo(f"{printable(str(results.path))}: {counts}", err=True)
