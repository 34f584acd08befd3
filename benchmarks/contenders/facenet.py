"""facenet-pytorch's MTCNN as a peer, also where torchvision and Pillow are not installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from mmx.runtime.errors import EnvironmentMissing

PACKAGE = "facenet_pytorch"
Nms = Callable[[Any, Any, float], Any]  # boxes [n, 4], scores [n], threshold -> kept indices, best first


def load_mtcnn(nms: Nms) -> Any:
    """facenet-pytorch's MTCNN with mmx's settings (CPU, eval), looking at arrays: one frame, or a list of them.

    Only its detector's files are imported (the rest of the package wants tqdm and requests). What they take from
    torchvision is one function, batched_nms; where torchvision is missing, ``nms`` stands in for it.

    Raises:
        EnvironmentMissing: facenet-pytorch, or OpenCV (which it crops arrays with), is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE) if PACKAGE not in sys.modules else sys.modules[PACKAGE].__spec__
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentMissing("facenet-pytorch is not installed", "pip install facenet-pytorch")
    if importlib.util.find_spec("cv2") is None:
        raise EnvironmentMissing(
            "facenet-pytorch crops arrays with OpenCV, which is not installed", "pip install opencv-python"
        )
    (folder,) = spec.submodule_search_locations
    packages = {
        PACKAGE: _folder(PACKAGE, folder),
        f"{PACKAGE}.models": _folder(f"{PACKAGE}.models", f"{folder}/models"),
    }
    with _modules(_stand_ins(nms) | packages):
        mtcnn = importlib.import_module(f"{PACKAGE}.models.mtcnn").MTCNN
    return mtcnn(image_size=48, margin=2, post_process=False).eval()


@contextmanager
def _modules(temporary: dict[str, ModuleType]) -> Iterator[None]:
    """Put modules in sys.modules for the time of an import, and leave no trace of them or of what was imported."""
    before = dict(sys.modules)
    sys.modules.update(temporary)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name in temporary or name.split(".")[0] == PACKAGE]:
            del sys.modules[name]
            if name in before:
                sys.modules[name] = before[name]


def _folder(name: str, path: str) -> ModuleType:
    """A package whose submodules come from ``path`` and whose own __init__ is not run."""
    module = ModuleType(name)
    module.__path__ = [path]
    return module


def _stand_ins(nms: Nms) -> dict[str, ModuleType]:
    """Empty modules for what is not installed, with the two functions of torchvision that arrays need."""
    made: dict[str, ModuleType] = {}
    if importlib.util.find_spec("torchvision") is None:
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops")
        made |= {name: ModuleType(name) for name in (*names, "torchvision.ops.boxes")}
        made["torchvision.transforms"].functional = made["torchvision.transforms.functional"]  # type: ignore[attr-defined]
        made["torchvision.transforms.functional"].to_tensor = _to_tensor  # type: ignore[attr-defined]
        made["torchvision.ops.boxes"].batched_nms = _by_frame(nms)  # type: ignore[attr-defined]
    if importlib.util.find_spec("PIL") is None:
        made |= {"PIL": ModuleType("PIL"), "PIL.Image": ModuleType("PIL.Image")}
        made["PIL"].Image = made["PIL.Image"]  # type: ignore[attr-defined]
    return made


def _to_tensor(pixels: Any) -> Any:
    """torchvision's to_tensor of a float32 array: planes first, nothing scaled."""
    import torch

    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _by_frame(nms: Nms) -> Callable[[Any, Any, Any, float], Any]:
    """batched_nms: boxes of other frames are moved out of each other's reach, as torchvision does it."""

    def batched_nms(boxes: Any, scores: Any, frame: Any, threshold: float) -> Any:
        if not len(boxes):
            return nms(boxes, scores, threshold)
        apart = frame.to(boxes)[:, None] * (boxes.max() - boxes.min() + 1)
        return nms(boxes + apart, scores, threshold)

    return batched_nms
