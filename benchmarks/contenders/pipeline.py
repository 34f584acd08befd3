"""``--scope pipeline``: a video file and its transcript to logits, through mmx and as the public code does it."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmx.benchmarks.contenders.facenet import load_mtcnn
from mmx.benchmarks.contenders.prepare import Prepared
from mmx.benchmarks.contenders.upstream import upstream_inputs, upstream_module
from mmx.benchmarks.results import EAGER, Row, best_rows
from mmx.benchmarks.workload.clips import Clip
from mmx.evaluation.timing import Contender
from mmx.runtime.bundle import Bundle
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.decode import upright_rgb
from mmx.runtime.media.faces.boxes import suppress
from mmx.runtime.media.faces.crop import center_crop
from mmx.runtime.media.mel import filter_bank
from mmx.runtime.media.text import Tokenizer
from mmx.runtime.precisions import precisions
from mmx.runtime.predictor import Predictor
from mmx.runtime.throughput import Pipeline
from mmx.runtime.types import Sample
from mmx.runtime.workers.task import Task

EXACT = "exact"  # faces as facenet-pytorch finds them
QUICKER = "track"  # as docs/faces.md recommends where throughput counts


class MmxPipeline:
    """``Predictor``, one file at a time. ``stage_ms``: milliseconds by stage, of all runs.

    ``faces``: how they are searched for; where that is not exactly, the key's precision says so, too.
    """

    def __init__(self, system: str, bundle: Bundle, backend: str, precision: str, threads: int, faces: str) -> None:
        self.key = _key(system, backend, precision, faces)
        self.stage_ms: dict[str, float] = defaultdict(float)
        self.runs = 0
        self._settings = {"backend": backend, "precision": precision, "threads": threads, "faces": faces}
        self._predictor = Predictor(bundle, **self._settings)  # type: ignore[arg-type]
        self._labels = bundle.manifest.labels

    def run(self, samples: Sequence[Clip]) -> NDArray[np.float32]:
        """Fused logits [clips, labels]."""
        logits = []
        for clip in samples:
            (prediction,) = self._predictor.predict(clip.path, text=clip.text)
            logits.append([prediction.logits[label] for label in self._labels])
            self.runs += 1
            for stage, ms in prediction.timings_ms.items():
                self.stage_ms[stage] += ms
        return np.array(logits, np.float32)

    def many(self, workers: int) -> ManyFiles:
        """The same through ``Pipeline``, files side by side; to be closed by who asked for it."""
        pipeline = Pipeline(self._predictor.bundle, workers=workers, **self._settings)  # type: ignore[arg-type]
        return ManyFiles(self.key, pipeline, workers)

    def close(self) -> None:
        """Give the engine's memory back."""
        self._predictor.close()


class ManyFiles:
    """``Pipeline`` on as many files as it is given, on as many cores as it has workers."""

    def __init__(self, key: str, pipeline: Pipeline, cores: int) -> None:
        self.key = f"{key} side by side"
        self._pipeline, self._cores = pipeline, cores
        self._labels = pipeline.bundle.manifest.labels

    def run(self, samples: Sequence[Clip]) -> NDArray[np.float32]:
        """Fused logits [clips, labels]."""
        logits = []
        with _on_cores(self._cores):
            for result in self._pipeline.run(Task(clip.path, clip.text) for clip in samples):
                if result.error is not None:
                    raise result.error
                (prediction,) = result.predictions
                logits.append([prediction.logits[label] for label in self._labels])
        return np.array(logits, np.float32)

    def close(self) -> None:
        """Give the engine's memory back."""
        self._pipeline.close()


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """Threads that are started meanwhile share so many cores, where the system can hold them there (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class UpstreamPipeline:
    """The public code's way: every frame decoded, facenet-pytorch clip by clip, a torch mel, the module in eager."""

    def __init__(self, system: str, module: nn.Module, bundle: Bundle, threads: int) -> None:
        """Load the face detector and the tokenizer.

        Raises:
            EnvironmentMissing: facenet-pytorch is not installed.
        """
        torch.set_num_threads(threads)
        self.key = f"{system}/{EAGER}/fp32"
        self.stage_ms: dict[str, float] = defaultdict(float)
        self.runs = 0
        self._module = module
        self._spec: Preprocessing = bundle.manifest.preprocessing
        assert bundle.tokenizer_dir is not None
        self._tokenizer = Tokenizer.load(bundle.tokenizer_dir, self._spec.text)
        self._mtcnn = load_mtcnn(_nms)
        self._filters = torch.tensor(filter_bank(self._spec.mel)).T

    def run(self, samples: Sequence[Clip]) -> NDArray[np.float32]:
        """Fused logits [clips, labels]."""
        return np.concatenate([self._one(clip) for clip in samples])

    def close(self) -> None:
        """Drop the model."""
        self._module = nn.Identity()

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stage_ms[name] += (time.perf_counter() - start) * 1e3

    def _one(self, clip: Clip) -> NDArray[np.float32]:
        self.runs += 1
        with self._stage("decode"):
            frames, sound = self._decode(clip)
        with self._stage("faces"), torch.inference_mode():
            crops = self._faces(frames)
        with self._stage("mel"):
            pieces = self._mel(torch.from_numpy(sound))
        with self._stage("text"):
            ids, _ = self._tokenizer.encode(clip.text)
        with self._stage("network"), torch.inference_mode():
            inputs = upstream_inputs(Sample(ids, np.stack(crops), pieces))
            logits: Tensor = self._module(**{name: torch.from_numpy(array) for name, array in inputs.items()})[0]
        return logits.numpy()

    def _decode(self, clip: Clip) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32]]:
        """RGB frames, the one on screen at each interval, and the sound at the mel's rate."""
        frames: list[NDArray[np.uint8]] = []
        shown: av.VideoFrame | None = None
        resampler = av.AudioResampler("fltp", "mono", self._spec.mel.sample_rate)
        sound: list[NDArray[Any]] = []
        with av.open(str(clip.path)) as container:
            for frame in container.decode(container.streams.video[0], container.streams.audio[0]):
                if isinstance(frame, av.VideoFrame):
                    if shown and (frame.time or 0.0) > len(frames) * self._spec.video.interval_s + 1e-3:
                        frames.append(upright_rgb(shown))
                    shown = frame
                elif isinstance(frame, av.AudioFrame):
                    sound += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            sound += [part.to_ndarray()[0] for part in resampler.resample(None)]
        if shown and (shown.time or 0.0) + 1 / 25 > len(frames) * self._spec.video.interval_s + 1e-3:
            frames.append(upright_rgb(shown))
        return frames, np.concatenate(sound).astype(np.float32)

    def _faces(self, frames: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        pixels = [frame.astype(np.float32) for frame in frames]
        found, _ = self._mtcnn.detect(pixels)
        return [
            center_crop(frame, self._spec.faces) if boxes is None else self._mtcnn.extract(image, boxes, None).numpy()
            for frame, image, boxes in zip(frames, pixels, found, strict=True)
        ]

    def _mel(self, sound: Tensor) -> NDArray[np.float32]:
        """torchaudio's MelSpectrogram with its defaults, cut in pieces as the public loader cuts it."""
        mel = self._spec.mel
        window = torch.hann_window(mel.n_fft)
        spectrum = torch.stft(sound, mel.n_fft, mel.hop, window=window, pad_mode="reflect", return_complex=True)
        columns = self._filters @ spectrum.abs().square()
        short = -columns.shape[1] % mel.columns
        padded = nn.functional.pad(columns, (0, short))
        pieces: NDArray[np.float32] = padded.unflatten(1, (-1, mel.columns)).transpose(0, 1).contiguous().numpy()
        return pieces


def _key(system: str, backend: str, precision: str, faces: str) -> str:
    return f"{system}/{backend}/{precision}" + ("" if faces == EXACT else f" {faces} faces")


def pipeline_makers(
    prepared: Prepared, backends: Sequence[str], threads: int
) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Each contender's key and how to open it."""
    name, bundle = prepared.system, prepared.bundle
    module = upstream_module(name, prepared.preset, prepared.checkpoint)
    yield f"{name}/{EAGER}/fp32", partial(UpstreamPipeline, name, module, bundle, threads)
    for backend in backends:
        *others, last = precisions(bundle, backend)  # the quicker search with the least precise alone
        for precision, faces in (*((each, EXACT) for each in (*others, last)), (last, QUICKER)):
            make = partial(MmxPipeline, name, bundle, backend, precision, threads, faces)
            yield _key(name, backend, precision, faces), make


def pipeline_stages(contenders: Sequence[Contender], rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Milliseconds by stage (the mean of all runs) of upstream's way and of mmx's fastest, by contender."""
    best = {row.key for row in best_rows(rows).values()}
    return {
        contender.key: {stage: ms / max(contender.runs, 1) for stage, ms in contender.stage_ms.items()}
        for contender in contenders
        if isinstance(contender, UpstreamPipeline) or (isinstance(contender, MmxPipeline) and contender.key in best)
    }


def _nms(boxes: Any, scores: Any, threshold: float) -> Any:
    """mmx's own suppression stands in for torchvision's compiled one, which is about as fast."""
    return torch.from_numpy(suppress(boxes.numpy(), scores.numpy(), threshold, np.zeros(len(scores), np.int64)))
