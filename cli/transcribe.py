"""``mmx transcribe``: what is said in a video, as subtitles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from mmx.cli.out_file import OutFile
from mmx.runtime.errors import EnvironmentMissing, UsageError
from mmx.runtime.files import write_text
from mmx.runtime.types import Span

FORMATS = (".srt", ".vtt", ".txt")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=OutFile(), help="A .srt, .vtt or .txt file; without it the text goes to the terminal.")
@click.option(
    "--asr", default="auto", show_default=True, envvar="MMX_ASR", help="A model's folder or name (mmx asr list)."
)
@click.option("--language", help="What is spoken (en, de, ...); without it the recogniser detects it.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
def transcribe(file: Path, out: Path | None, asr: str, language: str | None, threads: int) -> None:
    """Recognise what is said in a video or sound file, on this machine.

    \b
    mmx transcribe talk.mp4 --out talk.srt
    mmx transcribe talk.mp4 --asr base.en --language en
    """
    from mmx.runtime.media.decode import SoundTrack
    from mmx.runtime.speech.find import find_recogniser, why_none
    from mmx.runtime.speech.transcriber import Transcriber
    from mmx.runtime.speech.utterances import utterances

    if out is not None and out.suffix.lower() not in FORMATS:
        raise UsageError(f"{out} is of no format that mmx writes", f"its name should end in {', '.join(FORMATS)}")
    recogniser = find_recogniser(asr, threads=threads)
    if recogniser is None:
        raise EnvironmentMissing("there is no speech model on this machine", why_none().partition(": ")[2])
    if language is None and not recogniser.detects_language:
        raise UsageError(f"{recogniser.name} cannot detect the language", "--language en, if that is spoken")
    transcriber = Transcriber(recogniser, language)
    with SoundTrack(file) as sound:
        spans = utterances(transcriber.words(sound))
        if out is None:
            for span in spans:
                click.echo(f"{_clock(span.start, '.')} {span.text}")
            return
        text = _written(spans, out.suffix.lower())
    write_text(out, text)
    spoken = f", {transcriber.language.code}" if transcriber.language else ", no speech"
    click.echo(f"{out}: {recogniser.name}{spoken}", err=True)


def _written(spans: Iterable[Span], suffix: str) -> str:
    if suffix == ".txt":
        return "".join(f"{span.text}\n" for span in spans)
    point = "," if suffix == ".srt" else "."
    cues = [f"{_clock(span.start, point)} --> {_clock(span.end, point)}\n{span.text}\n" for span in spans]
    if suffix == ".vtt":
        return "WEBVTT\n\n" + "\n".join(cues)
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))


def _clock(seconds: float, point: str) -> str:
    """Hours, minutes, seconds and milliseconds as subtitles write them."""
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
