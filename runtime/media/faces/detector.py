"""Frames in, faces and their 48x48 crops out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.machine import usable_cores
from mmx.runtime.manifest import FaceSpec
from mmx.runtime.media.faces.cascade import Cascade, Detections
from mmx.runtime.media.faces.crop import RESAMPLINGS, center_crop, face_crop, upstream_crop
from mmx.runtime.media.faces.search import SEARCHES, FaceSearch, areas

NO_FACE = ("center", "skip", "mask", "error", "upstream")
MOST_FACES = 16  # of a frame that are told apart: a crowd would cost time and memory without end
T = TypeVar("T")


@dataclass(frozen=True)
class Face:
    """A detected face: float32 box x0, y0, x1, y1 in pixels (it may reach out of the frame), probability."""

    box: NDArray[np.float32]
    probability: float


@dataclass(frozen=True)
class FaceCrop:
    """What the visual tower gets for a frame.

    ``pixels``: float32 [3, 48, 48], RGB, 0..255; None where the frame is skipped. ``face``: None where there is none.
    """

    pixels: NDArray[np.float32] | None
    face: Face | None


class FaceDetector:
    """MTCNN as facenet-pytorch 2.6 runs it (largest face), on one core per frame.

    Args:
        nets: pnet, rnet and onet as ``mmx.export.face_nets`` makes them.
        spec: thresholds, margin and crop size.
        threads: frames looked at side by side (None: the cores this process may use). Memory grows by about 20 bytes
            per pixel of the frame for each; results do not depend on it.
        search: exact, or a quicker way that may find another face or box: fast, large, track (see ``FaceSearch``).
            ``track`` takes the frames of a call for one after another of the same video, on one core.

    Raises:
        UsageError: no such search. BadDataError: nets or settings that make no sense.
    """

    def __init__(
        self, nets: dict[str, Path], spec: FaceSpec, *, threads: int | None = None, search: str = "exact"
    ) -> None:
        if search not in SEARCHES:
            raise UsageError(f"faces can't be searched for as {search!r}", f"it can be {', '.join(SEARCHES)}")
        if not (spec.min_face >= 1 and 0 < spec.factor < 1 and 0 <= spec.margin < spec.size):
            raise BadDataError(f"the manifest's face settings make no sense: {spec}", "export the checkpoint again")
        if spec.resample not in RESAMPLINGS:
            raise BadDataError(f"the manifest asks for face resampling {spec.resample!r}", f"mmx knows {RESAMPLINGS}")
        self._cascade = Cascade(nets, spec)
        self._spec = spec
        self._search = search
        self._threads = 1 if search == "track" else threads or usable_cores()

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[Face | None]:
        """The largest face of each RGB frame uint8 [h, w, 3] (or grey [h, w]); frames may differ in size.

        Raises:
            BadDataError: a frame is not such an array.
        """
        search = FaceSearch(self._cascade, self._search)
        return self._each(lambda i: next(iter(_faces(search(_rgb(frames[i])), 1)), None), len(frames))

    def extract(
        self, frames: Sequence[NDArray[np.uint8]], no_face: str = "center", times: Sequence[float] | None = None
    ) -> list[FaceCrop]:
        """The crop of each frame's largest face, or what ``no_face`` says where there is none; see ``find``."""
        return [faces[0] for faces in self.find(frames, no_face, times, most=1)]

    def find(
        self,
        frames: Sequence[NDArray[np.uint8]],
        no_face: str = "center",
        times: Sequence[float] | None = None,
        *,
        every: bool = False,
        most: int = MOST_FACES,
    ) -> list[list[FaceCrop]]:
        """The crops of each frame's faces, the largest first (of equal ones, the more probable).

        For a frame without a face there is one crop without a face, as ``no_face`` says: ``center``: the largest
        centred square; ``skip``: no pixels; ``mask``: a black square; ``error``: BadDataError naming the frame's time;
        ``upstream``: the unscaled, off-centre cut of the public demo (``compat: upstream``). Frames that have a face
        are the same under every policy.

        Args:
            times: the frames' times in seconds, for the message of ``error``.
            every: look for all faces; otherwise only the exact search finds more than the largest one for sure.
            most: how many of a frame, at most.

        Raises:
            UsageError: ``every`` with a search that looks for the largest face alone. BadDataError: see ``detect``.
        """
        if no_face not in NO_FACE:
            raise UsageError(f"no_face is {no_face!r}", f"it can be {', '.join(NO_FACE)}")
        search = FaceSearch(self._cascade, self._search, every=every)

        def one(i: int) -> list[FaceCrop]:
            frame = _rgb(frames[i])
            crops = [FaceCrop(face_crop(frame, face.box, self._spec), face) for face in _faces(search(frame), most)]
            if crops and crops[0].pixels is not None:
                return [crop for crop in crops if crop.pixels is not None]
            if no_face == "error":
                when = f"frame {i}" if times is None else f"the frame at {times[i]:.3f} s"
                raise BadDataError(f"no face in {when}", "choose another no_face policy: center, skip or mask")
            return [FaceCrop(self._stand_in(frame, no_face), None)]

        return self._each(one, len(frames))

    def crop(self, frame: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """The crop of a box that is known, x0, y0, x1, y1 in pixels; None where it lies outside the frame."""
        return face_crop(frame, box, self._spec)

    def _stand_in(self, frame: NDArray[np.uint8], no_face: str) -> NDArray[np.float32] | None:
        size = self._spec.size
        if no_face == "skip":
            return None
        if no_face == "mask":
            return np.zeros((3, size, size), np.float32)
        return (center_crop if no_face == "center" else upstream_crop)(frame, self._spec)

    def _each(self, work: Callable[[int], T], count: int) -> list[T]:
        """work(0), work(1)... on the detector's threads, in order."""
        if min(self._threads, count) < 2:
            return [work(i) for i in range(count)]
        with ThreadPoolExecutor(min(self._threads, count)) as pool:
            return list(pool.map(work, range(count)))


def _faces(found: Detections, most: int) -> list[Face]:
    """The largest first; of equal ones the one that came first."""
    order = np.argsort(-areas(found), kind="stable")[:most]
    return [Face(found.boxes[which], float(found.probabilities[which])) for which in order]


def _rgb(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if (
        frame.dtype != np.uint8
        or frame.ndim not in (2, 3)
        or (frame.ndim == 3 and frame.shape[2] != 3)
        or not frame.size
    ):
        raise BadDataError(
            f"a frame is {frame.dtype} {list(frame.shape)}; faces are looked for in uint8 [height, width, 3]",
            "convert the frame to 8-bit RGB",
        )
    return frame if frame.ndim == 3 else np.repeat(frame[:, :, None], 3, axis=2)
