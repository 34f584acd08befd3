"""``mmx transcribe``: what is said in a video, as subtitles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from mmx.cli.command import command, say
from mmx.cli.options import shared
from mmx.cli.paths import InPath, OutFile
from mmx.runtime.errors import EnvironmentMissing, UsageError
from mmx.runtime.files import write_text
from mmx.runtime.types import Span

FORMATS = (".srt", ".vtt", ".txt")


@command()
@click.argument("file", type=InPath(folder=False))
@click.option("--out", type=OutFile(*FORMATS), help="A .srt, .vtt or .txt file.  [default: print the text]")
@shared("--asr", envvar="MMX_ASR", help="A model's folder or name (mmx asr list).")
@shared("--language")
@shared("--threads", default=1, show_default=True, help="CPU threads of the recogniser.")
def transcribe(file: Path, out: Path | None, asr: str, language: str | None, threads: int) -> None:
    """Transcribe the speech in a video or sound file, on this machine.

    \b
    mmx transcribe talk.mp4 --out talk.srt
    mmx transcribe talk.mp4 --asr base.en --language en
    """
    from mmx.runtime.media.decode import SoundTrack
    from mmx.runtime.speech.find import find_recogniser, why_none
    from mmx.runtime.speech.transcriber import Transcriber
    from mmx.runtime.speech.utterances import utterances

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
    say(f"{out}: {recogniser.name}{spoken}")


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
