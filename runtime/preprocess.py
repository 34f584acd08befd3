"""A media file -> ``Segment``s, one after another: the network's input, and facts about it.

Only the bundle's preprocessing spec decides, so that every use of a bundle gets the same numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.arrays import MediaArrays
from mmx.runtime.media.container import MediaInfo
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.mel import mel_pieces
from mmx.runtime.media.reader import Frame, Glance, SegmentEnd, open_input, read_segments
from mmx.runtime.media.source import MediaInput
from mmx.runtime.media.text import Tokenizer
from mmx.runtime.media.transcript import Transcript, read_transcript
from mmx.runtime.packing import FACE_SHAPE
from mmx.runtime.people.choice import People
from mmx.runtime.people.glances import GLANCE_S
from mmx.runtime.people.speaker import SpeakerMethod
from mmx.runtime.people.watcher import Looks, View, Watcher
from mmx.runtime.prediction import SeenFace, Word
from mmx.runtime.quality import of_faces, of_sound
from mmx.runtime.speech.find import find_recogniser, resolve, why_none
from mmx.runtime.speech.heard import Heard, is_doubtful
from mmx.runtime.speech.recogniser import SAMPLE_RATE, Language, Recogniser
from mmx.runtime.types import DEFAULT_TRACKS, Sample, Span, Tracks

# Frames wait for the face detector in groups: enough to keep every core busy, few enough to hold 4K video.
CHUNK_FRAMES = 32
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Segment:
    """One utterance or window of a file, ready for the network.

    Attributes:
        file: path as the caller gave it. span: its stretch of the file, with what is said in it.
        sample: the network's input. absent: the reason for each missing modality.
        faces: the face of each frame that is used; others: those of other people. person: whose face it is.
        frames_seen: how many frames were searched.
        flags: quality flags. quality: numbers by name (``runtime.quality``).
        timings_ms: milliseconds by stage (decode, faces, mel, text).
        words, recogniser, language: of recognised text.
        video_tracks, audio_tracks: how many the file has to choose from.
    """

    file: str
    span: Span
    sample: Sample
    absent: dict[str, str]
    faces: tuple[SeenFace, ...]
    frames_seen: int
    flags: tuple[str, ...]
    timings_ms: dict[str, float]
    quality: dict[str, float] = field(default_factory=dict)
    words: tuple[Word, ...] = ()
    recogniser: str | None = None
    language: Language | None = None
    video_tracks: int = 0
    audio_tracks: int = 0
    person: int | None = None
    others: tuple[SeenFace, ...] = ()


@dataclass(frozen=True)
class _Source:
    """One file: its header, what is said in it (untimed, in timed cues, or not known), how it is cut, its flags."""

    file: str
    info: MediaInfo
    said: str | Sequence[Span] | None
    windowed: bool
    flags: tuple[str, ...]
    heard: Heard | None = None

    def text_of(self, span: Span) -> str | None:
        if self.said is None or isinstance(self.said, str):
            return self.said
        if not self.windowed:  # each cue is its own segment and holds its words already
            return span.text
        near = (cue for cue in self.said if cue.start < span.end and span.start < cue.end)
        return " ".join(word for cue in near for word in _words_within(cue, span))

    def shares_text(self, end: SegmentEnd) -> bool:
        """Whether the segment is a part of the file and yet has the text of all of it."""
        return isinstance(self.said, str) and (self.windowed or "utterance_split" in end.flags)


class Preprocessor:
    """Turns files into segments for one bundle. Tokenizer, face nets and recogniser are loaded when first needed.

    Thread-safe: any number of files may be read at the same time. ``faces``: the face search (docs/faces.md).
    ``asr``: the recogniser for files without a transcript (see ``speech.find``). ``language``: the spoken one.
    ``speaker``: how to find out who speaks (``people.speaker``); by default mouth movement.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        faces: str = "exact",
        asr: str = "none",
        language: str | None = None,
        speaker: SpeakerMethod | None = None,
    ) -> None:
        self._bundle = bundle
        self._speaker = speaker
        self._asr = resolve(asr)
        self._language = language
        self._recogniser: Recogniser | None = None
        self._faces = faces
        self._threads = threads
        self._spec = bundle.manifest.preprocessing
        self._loading = threading.Lock()
        self._tokenizer: Tokenizer | None = None
        self._detector: FaceDetector | None = None

    @property
    def spec(self) -> Preprocessing:
        """What the bundle says about preprocessing."""
        return self._spec

    def segments(
        self,
        file: MediaInput | MediaArrays,
        *,
        text: str | None = None,
        transcript: Transcript | None = None,
        window: float | None = None,
        tracks: Tracks = DEFAULT_TRACKS,
        people: str = "largest",
        stop: threading.Event | None = None,
    ) -> Generator[Segment, None, None]:
        """Read one file, in one pass and bounded memory, and yield its segments in the order they end.

        Args:
            file: a path, bytes or a file object (see ``media.source``), or frames and sound in memory.
            text: what is said in the whole file.
            transcript: a .txt (as ``text``), .srt or .vtt file, or its spans. Each timed cue is one segment.
            window: cut the file into windows of so many seconds instead. A window's text is the words of the cues that
                are spoken in it, taking all words of a cue to be equally long; untimed text goes to every
                window, with the flag ``text_of_whole_file``.
            tracks: which video and audio track to read; by default the one that the file marks as default.
            people: whose faces: largest, left, right, center, region=X,Y,W,H, each, which gives a segment for each
                person, or speaker (docs/people.md).
            stop: once it is set, reading ends at the next frame, and what was read since the last segment is dropped.

        Raises:
            UsageError: text and transcript together, a window that is too short or too long (see ``plan_cuts``), or
                people that are no choice or do not go with the face search.
            BadDataError: the file or the transcript can't be read, or the bundle lacks the tokenizer or the face
                nets that this file needs.
        """
        said = _what_is_said(text, transcript)
        choice = People.parse(people, self._faces)
        started = perf_counter()
        opened = open_input(file, tracks)
        windowed = window is not None
        cues = None if isinstance(said, str) or windowed else said
        partly = cues is not None and 2 * _covered(cues, opened.length) < opened.length
        flags = ("transcript_covers_part",) * partly
        system = self._bundle.manifest.modalities
        listening = said is None and "text" in system and opened.info.has_audio
        heard = self._listener() if listening else None
        source = _Source(opened.name, opened.info, said, windowed, flags, heard)
        events = read_segments(
            opened,
            cues,
            self._spec,
            window=window,
            heard=heard,
            video="visual" in system,
            audio="audio" in system or heard is not None,
            threads=self._threads,
            glance_s=GLANCE_S if choice.kind == "speaker" else None,
        )
        decode_ms = _ms_since(started)
        waiting: list[Frame] = []
        glances: list[Glance] = []
        watcher: Watcher | None = None
        while True:
            started = perf_counter()
            event = next(events, None)
            decode_ms += _ms_since(started)
            if event is None or (stop is not None and stop.is_set()):
                return
            if isinstance(event, Glance):
                glances.append(event)
                continue
            if isinstance(event, Frame):
                waiting.append(event)
                held = sum(frame.rgb.nbytes for frame in waiting) + len(glances) * event.rgb.nbytes
                if len(waiting) < CHUNK_FRAMES and held < CHUNK_BYTES:
                    continue
            if waiting:
                watcher = watcher or self._watcher(choice)
                watcher.look(waiting, glances)
                waiting.clear()
                glances.clear()
            if isinstance(event, SegmentEnd):
                yield from self._ended(source, event, watcher, choice, decode_ms)
                decode_ms = 0.0

    def segments_of(
        self,
        events: Iterable[Sequence[Frame] | SegmentEnd],
        info: MediaInfo,
        wanted: Callable[[SegmentEnd], bool],
        people: str = "largest",
    ) -> Generator[Segment, None, None]:
        """The segments of what is read elsewhere; faces are searched for as soon as a frame is there.

        Args:
            events: looks at one frame, and ends of segments, in order of time.
            info: what the header says.
            wanted: whether a segment that ends is to be made at all.
            people: see ``segments``.

        Raises:
            UsageError: people that are no choice, do not go with the face search, or are ``speaker``.
        """
        source = _Source(info.name, info, None, True, ())
        choice = People.parse(people, self._faces)
        if choice.kind == "speaker":
            raise UsageError("people speaker is not available for a live stream", "people can be each, there")
        watcher: Watcher | None = None
        for event in events:
            if not isinstance(event, SegmentEnd):
                watcher = watcher or self._watcher(choice)
                watcher.look(event)
            elif wanted(event):
                yield from self._ended(source, event, watcher, choice, 0.0)
            elif watcher:
                watcher.ended(event)

    def _watcher(self, people: People) -> Watcher:
        no_face = "upstream" if self._spec.compat == "upstream" else self._spec.video.no_face
        return Watcher(self._face_detector(), people, no_face, self._speaker)

    def _ended(
        self, source: _Source, end: SegmentEnd, watcher: Watcher | None, people: People, decode_ms: float
    ) -> Iterator[Segment]:
        """The segment, or one for each person: the first has the time that it took."""
        views, faces_ms = watcher.ended(end) if watcher else (Looks().views(people), 0.0)
        base = self._without_faces(source, end, decode_ms)
        base.timings_ms["faces"] = faces_ms
        for number, view in enumerate(views):
            timings = base.timings_ms if not number else dict.fromkeys(base.timings_ms, 0.0)
            yield self._with_faces(replace(base, timings_ms=timings), source, end, view)

    def _without_faces(self, source: _Source, end: SegmentEnd, decode_ms: float) -> Segment:
        """A segment's sound and words, with the reason for each of them that is missing."""
        system = self._bundle.manifest.modalities
        heard = source.heard
        words = heard.words_in(end.span) if heard else ()
        text = " ".join(word.text for word in words if word.text) or None if heard else source.text_of(end.span)
        timings = {"decode": decode_ms, "faces": 0.0}
        flags = [*end.flags, *source.flags]
        absent: dict[str, str] = {}

        started = perf_counter()
        pieces = mel_pieces(end.sound, self._spec.mel, end.sample_rate)
        sound = of_sound(end.sound, end.sample_rate, self._spec.quality)
        timings["mel"] = _ms_since(started)
        if len(pieces) and sound.nothing:
            pieces = pieces[:0]
            absent["audio"] = sound.nothing
        elif not len(pieces):
            absent["audio"] = "no sound in this segment" if source.info.has_audio else "no audio track"

        started = perf_counter()
        token_ids = None
        if "text" in system and text is not None and text.strip():
            token_ids, truncated = self._text_tokenizer().encode(text)
            flags += ["truncated_text"] * truncated + ["text_of_whole_file"] * source.shares_text(end)
            flags += ["text_recognised"] * bool(words) + ["doubtful_words"] * (bool(words) and is_doubtful(words))
        elif heard:
            absent["text"], more = heard.absence(words)
            flags += more
        elif text is not None:
            absent["text"] = "no words in this segment"
        else:
            absent["text"] = why_none() if self._asr == "auto" else "no transcript"
        timings["text"] = _ms_since(started)

        return Segment(
            file=source.file,
            span=Span(end.span.start, end.span.end, text),
            sample=Sample(token_ids, np.empty((0, *FACE_SHAPE), np.float32), pieces),
            absent={modality: why for modality, why in absent.items() if modality in system},
            faces=(),
            frames_seen=end.frames,
            flags=(*flags, *sound.flags),
            timings_ms=timings,
            quality=sound.numbers,
            words=tuple(word for word in words if word.text),
            recogniser=heard.recogniser if heard else None,
            language=heard.language if heard else None,
            video_tracks=source.info.video_tracks,
            audio_tracks=source.info.audio_tracks,
        )

    def _with_faces(self, base: Segment, source: _Source, end: SegmentEnd, view: View) -> Segment:
        """A segment with the faces of one view of it, or the reason why there are none."""
        crops, flags, absent = view.crops, base.flags, base.absent
        if end.frames and not view.faces:
            flags += ("no_face",)
            # The public demo feeds its fallback crops even if it never saw a face; they say nothing about a face.
            crops = crops if self._spec.compat == "upstream" else []
        if not crops and "visual" in self._bundle.manifest.modalities:
            seen = f"no face in {end.frames} frames" if end.frames else "no frame in this segment"
            absent = {**absent, "visual": seen if source.info.has_video else "no video track"}
        found = [(face.pixels, face.size) for face in view.faces if face.pixels is not None]
        picture = of_faces([pixels for pixels, _ in found], [size for _, size in found], end.frames)
        return replace(
            base,
            sample=replace(base.sample, faces=np.stack(crops) if crops else base.sample.faces),
            absent=absent,
            faces=tuple(face.seen for face in view.faces),
            others=view.others,
            person=view.person,
            flags=(*flags, *picture.flags, *view.flags),
            quality=base.quality | picture.numbers | view.numbers,
        )

    def _listener(self) -> Heard | None:
        """What hears one file; None without a recogniser, and where the bundle wants sound at another rate."""
        with self._loading:
            if self._recogniser is None:
                self._recogniser = find_recogniser(self._asr, threads=self._threads or 1)
        mel = self._spec.mel
        if self._recogniser is None or mel.own_rate or mel.sample_rate != SAMPLE_RATE:
            return None
        return Heard(self._recogniser, self._language, self._spec.text.languages.__contains__)

    def _text_tokenizer(self) -> Tokenizer:
        with self._loading:
            if self._tokenizer is None:
                if self._bundle.tokenizer_dir is None:
                    raise BadDataError(
                        f"{self._bundle.path} has no tokenizer, so it cannot read text",
                        "mmx export ckpt.pt --tokenizer FOLDER, or predict without text",
                    )
                with self._bundle.unreplaced():
                    self._tokenizer = Tokenizer.load(self._bundle.tokenizer_dir, self._spec.text)
            return self._tokenizer

    def _face_detector(self) -> FaceDetector:
        with self._loading:
            if self._detector is None:
                if self._bundle.face_nets is None:
                    raise BadDataError(
                        f"{self._bundle.path} has no face nets, so it cannot read video", "mmx export ckpt.pt"
                    )
                with self._bundle.unreplaced():
                    self._detector = FaceDetector(
                        self._bundle.face_nets, self._spec.faces, threads=self._threads, search=self._faces
                    )
            return self._detector


def _words_within(cue: Span, span: Span) -> list[str]:
    """Those of a cue's words whose middle lies in a span, taking all words of a cue to be equally long."""
    words = (cue.text or "").split()
    each = (cue.end - cue.start) / max(len(words), 1)
    return [word for i, word in enumerate(words) if span.start <= cue.start + (i + 0.5) * each < span.end]


def _covered(said: Sequence[Span], length: float) -> float:
    """Seconds of a file of ``length`` seconds that lie in any of the cues."""
    covered = end = 0.0
    for cue in sorted(said, key=lambda cue: cue.start):
        start, stop = max(cue.start, end), min(cue.end, length)
        covered += max(0.0, stop - start)
        end = max(end, stop)
    return covered


def _what_is_said(text: str | None, transcript: Transcript | None) -> str | Sequence[Span] | None:
    """The words of the whole file (str), or cues with their times, or None when nothing is known."""
    if text is not None and transcript is not None:
        raise UsageError("text and a transcript were both given", "give one of them")
    if isinstance(transcript, (str, Path)):
        return read_transcript(transcript)
    if transcript is None:
        return text
    return transcript or ""  # no cue: it is known that nothing is said


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1000
