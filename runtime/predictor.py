"""``Predictor``: media files -> predictions, as they come, from a bundle alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from mmx.runtime.arguments import at_least_one
from mmx.runtime.backends import Backend
from mmx.runtime.bundle import Bundle
from mmx.runtime.closing import Closing
from mmx.runtime.errors import MmxError, UsageError
from mmx.runtime.media.arrays import MediaArrays
from mmx.runtime.media.source import MediaInput, name_of
from mmx.runtime.network import Network, require_media
from mmx.runtime.packing import rows
from mmx.runtime.people.choice import People
from mmx.runtime.people.speaker import SpeakerMethod
from mmx.runtime.prediction import Prediction
from mmx.runtime.preprocess import Preprocessor, Segment, Transcript
from mmx.runtime.probabilities import Certainty
from mmx.runtime.types import DEFAULT_TRACKS, Span, Tracks

Media = MediaInput | MediaArrays
MAX_ROWS = 512  # tower rows in one batch; one utterance of 120 s has 540


class Predictor(Closing):
    """A bundle that is ready to run.

    Args:
        bundle: a bundle folder, or one that is open.
        backend, precision, threads, on_mismatch, device: see ``open_backend``. Face detection uses as many threads.
        faces: exact, or a faster search that may find other faces (docs/faces.md): fast, large, track.
        batch_size: largest batch, in segments. The first one never waits: batches grow from 1 (then 2, 4, ...)
            while a file is read.
        asr: the recogniser for files without a transcript: auto | none | a folder | a name (see ``speech.find``).
        language: the spoken language (ISO 639-1), if known.
        certainty: what a prediction must reach to be given labels (docs/trust.md).
        speaker: how people="speaker" finds out who speaks; None: by mouth movement.
        utterances: about how many will be predicted, see ``open_backend``.
        wait: False loads the network in the background while the first file is read. Its errors
            then come from ``network``, and from the first prediction.

    Attributes: ``bundle``, ``network``, ``backend`` (its ``name``, ``device`` and ``why`` say what runs).

    Use one ``predict`` generator at a time; ``network`` may be used from several threads.

    Raises:
        MmxError: what ``Bundle.open`` and ``open_backend`` raise; UsageError for a system that does not take media.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        backend: str = "auto",
        precision: str = "fp32",
        threads: int | None = None,
        batch_size: int = 4,
        on_mismatch: str = "error",
        faces: str = "exact",
        utterances: int | None = None,
        device: str | None = None,
        asr: str = "auto",
        language: str | None = None,
        certainty: Certainty | None = None,
        wait: bool = True,
        speaker: SpeakerMethod | None = None,
    ) -> None:
        at_least_one("batch_size", batch_size)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, beside=not wait)
        require_media(self.bundle)
        loading = ThreadPoolExecutor(1, "mmx-load")
        self._network = loading.submit(
            Network.open,
            self.bundle,
            backend,
            precision,
            threads=threads,
            on_mismatch=on_mismatch,
            utterances=utterances,
            device=device,
            certainty=certainty,
        )
        loading.shutdown(wait=False)
        if wait:
            self._network.result()
        self._batch_size = batch_size
        self._faces = faces
        self._preprocessor = Preprocessor(
            self.bundle, threads=threads, faces=faces, asr=asr, language=language, speaker=speaker
        )

    @property
    def network(self) -> Network:
        """The network, once it is loaded; for samples made elsewhere. Raises what ``open_backend`` raises."""
        return self._network.result()

    @property
    def backend(self) -> Backend:
        """The backend of the network, once it is loaded."""
        return self.network.backend

    def predict(
        self,
        files: Media | Iterable[Media],
        *,
        text: str | Sequence[str | None] | None = None,
        transcript: Transcript | Sequence[Transcript | None] | None = None,
        window: float | None = None,
        tracks: Tracks = DEFAULT_TRACKS,
        people: str = "largest",
        on_error: Callable[[str, MmxError], Any] | None = None,
    ) -> Iterator[Prediction]:
        """Yield a prediction for each segment of each file, in order, as soon as it is known.

        Args:
            files: one or several of: a path, the bytes of a file, a binary file object, or frames and sound in memory
                (``MediaArrays``).
            text, transcript, window, tracks, people: see ``Preprocessor.segments``. With several files, text and
                transcript are lists with one entry (or None) for each file.
            on_error: called with the file's name and its error; the next file follows.

        Raises:
            UsageError: invalid arguments; raised at once where possible.
            MmxError: a file has an error and there is no ``on_error``.
        """
        single = _is_media(files)
        media: list[Media] = [files] if single else list(files)  # type: ignore[list-item,arg-type]
        names = [each.name if isinstance(each, MediaArrays) else name_of(each) for each in media]
        texts = one_each("text", text, media)
        if single and isinstance(transcript, (list, tuple)) and not transcript:
            transcript = [transcript]  # of one file in which nothing is said
        transcripts = one_each("transcript", transcript, media)
        _check_said(texts, transcripts, window)
        People.parse(people, self._faces)
        inputs = list(zip(media, names, texts, transcripts, strict=True))
        return self._predict_all(inputs, window, tracks, people, on_error)

    def close(self) -> None:
        """Free the memory of the network."""
        if self._network.exception() is None:  # which waits for it to be loaded
            self._network.result().close()

    def _predict_all(
        self,
        inputs: Sequence[tuple[Media, str, str | None, Transcript | None]],
        window: float | None,
        tracks: Tracks,
        people: str,
        on_error: Callable[[str, MmxError], Any] | None,
    ) -> Iterator[Prediction]:
        for file, name, text, transcript in inputs:
            try:
                segments = self._preprocessor.segments(
                    file, text=text, transcript=transcript, window=window, tracks=tracks, people=people
                )
                for group in self._groups(segments):
                    yield from self._answered(group)
            except MmxError as e:
                if on_error is None or isinstance(e, UsageError) or self._network_failed():
                    raise
                on_error(name, e)

    def _network_failed(self) -> bool:
        return self._network.done() and self._network.exception() is not None

    def _groups(self, segments: Iterator[Segment]) -> Iterator[list[Segment]]:
        """Batches of 1, 2, 4, ... up to ``batch_size`` segments; what was read before an error is still predicted."""
        group: list[Segment] = []
        size = 1
        try:
            for segment in segments:
                group.append(segment)
                if len(group) >= size or rows([each.sample for each in group]) >= MAX_ROWS:
                    yield group
                    group, size = [], min(2 * size, self._batch_size)
        except MmxError:
            if group:
                yield group
            raise
        if group:
            yield group

    def _answered(self, segments: Sequence[Segment]) -> Iterator[Prediction]:
        """The segments' predictions; raises the first error where the network has one."""
        for answer in self.network.predict(segments):
            if isinstance(answer, MmxError):
                raise answer
            yield answer


def one_each(name: str, given: Any, files: Sequence[Any]) -> list[Any]:
    """One entry of text or transcript for each file; None where none is given.

    Raises:
        UsageError: not as many as files, or neither one nor a list of them.
    """
    if given is None:
        return [None] * len(files)
    kinds: tuple[Any, ...] = (str, Path, Sequence)
    if not isinstance(given, kinds):
        raise UsageError(f"{name} is {type(given).__name__}", f"give one {name}, or a list of one for each file")
    single = isinstance(given, (str, Path)) or (len(given) > 0 and isinstance(given[0], Span))
    each = [given] if single else list(given)
    if len(each) != len(files):
        raise UsageError(f"there are {len(files)} files and {len(each)} of {name}", f"give one {name} for each file")
    return each


def _is_media(files: object) -> bool:
    """Whether this is one input, not several."""
    if isinstance(files, np.ndarray):
        raise UsageError(
            "media cannot be read from ndarray", "MediaArrays(frames, times, sound, sample_rate) holds arrays"
        )
    single = (str, os.PathLike, bytes, bytearray, memoryview, MediaArrays)
    return isinstance(files, single) or hasattr(files, "read") or not isinstance(files, Iterable)


def _check_said(texts: Sequence[Any], transcripts: Sequence[Any], window: Any) -> None:
    """Raise UsageError for types that none of them can have."""
    for text in texts:
        if not isinstance(text, str | None):
            raise UsageError(f"text is {type(text).__name__}", "give a str; None says that it is not known")
    for transcript in transcripts:
        spans = isinstance(transcript, Sequence) and all(isinstance(each, Span) for each in transcript)
        if not (spans or isinstance(transcript, (str, Path, type(None)))):
            raise UsageError(f"a transcript is {type(transcript).__name__}", "give a path, or a list of Span")
    if window is not None and (isinstance(window, bool) or not isinstance(window, Real)):
        raise UsageError(f"window is {type(window).__name__}", "give seconds")
