"""``mmx package --triton``: a bundle as a model repository of the Triton Inference Server."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np

from mmx.runtime.bundle import Bundle
from mmx.runtime.engines import Engine, engine_graph, engines_of
from mmx.runtime.errors import UsageError
from mmx.runtime.packing import INPUTS
from mmx.runtime.variants import RECORD
from mmx.runtime.workers import PARTS
from mmx.serving.packaging import triton_config as config
from mmx.serving.packaging.docker import copy_bundle, tokenizer_extra
from mmx.serving.packaging.folder import new_folder
from mmx.serving.packaging.pbtxt import pbtxt
from mmx.serving.packaging.wheel import pinned, write_wheel

IMAGE = "nvcr.io/nvidia/tritonserver:25.08-py3"
ENGINE = "tensorrt"  # the flavour that Triton's TensorRT backend loads; engines of TensorRT for RTX it does not
MODEL_PY = '''\
"""The code is mmx's: pip install mmx (the Dockerfile beside the models does)."""

from mmx.serving.packaging.triton_models import {model} as TritonPythonModel  # noqa: F401
'''


def write_repository(
    bundle: Bundle,
    out: Path,
    *,
    name: str = "mmx",
    backend: str = "onnxruntime",
    precision: str = "fp32",
    instances: int = 2,
) -> list[str]:
    """Write the models ``<name>``, ``<name>_preprocess``, ``<name>_answer`` and ``<name>_graph``, and a Dockerfile.

    Args:
        bundle: of a system that takes media.
        out: the repository's folder, new or empty.
        backend: ``onnxruntime``, or ``tensorrt`` for an engine of the bundle that ``mmx build-engine --flavour
            tensorrt`` made.
        precision: which graph or engine.
        instances: processes that decode media and look for faces.

    Returns:
        The commands that build the image and start the server.

    Raises:
        UsageError: no such graph or engine, a system that takes features, or ``out`` is not empty.
        BadDataError: the engine is not the file that was built.
    """
    manifest = bundle.manifest
    if not set(manifest.graphs["fp32"].input_names) <= set(INPUTS):
        raise UsageError(f"{bundle.path} holds {manifest.system}, which takes features, not media files")
    engine = _engine(bundle, precision) if backend == ENGINE else None
    graph = None if engine else bundle.graph(precision)
    with new_folder(out) as folder:
        if engine:
            version = _model(folder, config.plan_graph(name, engine.record))
            shutil.copyfile(engine.path, version / "model.plan")
        elif graph:
            version = _model(folder, config.onnx_graph(name, graph.spec))
            shutil.copyfile(graph.path, version / "model.onnx")

        answer = _model(folder, config.answer(name, manifest.graphs["fp32"].outputs), "Answer")
        copy_bundle(bundle, answer, (), ("probabilities",))
        if engine:
            shutil.copyfile(engine.path.with_name(RECORD), answer / RECORD)

        preprocess = _model(folder, config.preprocess(name, instances), "Preprocess")
        copy_bundle(bundle, preprocess / "bundle", PARTS, ())
        _write_clip(preprocess / config.CLIP)

        _model(folder, config.ensemble(name))
        wheel = write_wheel(folder)
        (folder / "requirements.txt").write_text("\n".join(pinned(*tokenizer_extra(bundle))) + "\n")
        (folder / "Dockerfile").write_text(_dockerfile(wheel.name))
    gpu = "--gpus all " if engine else ""
    return [
        f"docker build -t mmx-triton {out}",
        f"docker run --rm {gpu}--shm-size 2g -p 8000:8000 -p 8001:8001 -p 8002:8002 "
        f'-v "{out.absolute()}:/models:ro" mmx-triton tritonserver --model-repository /models',
    ]


def _engine(bundle: Bundle, precision: str) -> Engine:
    """The newest engine that Triton can load, after checking its bytes."""
    found = engines_of(bundle)
    graph = bundle.described(engine_graph(precision))
    for engine in found:
        current = graph is None or graph.sha256 == engine.record.graph_sha256
        if (engine.record.flavour, engine.record.precision) == (ENGINE, precision) and current:
            engine.check()
            return engine
    kinds = sorted({f"{each.record.precision} of {each.record.flavour}" for each in found})
    raise UsageError(
        f"{bundle.path} has no {precision} engine that Triton's TensorRT backend loads"
        + (f"; it has {', '.join(kinds)}" if kinds else ""),
        f"mmx build-engine --{precision} --flavour {ENGINE} {bundle.path}, with the Triton image's TensorRT version",
    )


def _model(folder: Path, message: config.Config, python: str | None = None) -> Path:
    """Write one model's config.pbtxt and, for a Python model, its model.py; returns the folder of version 1."""
    version = folder / message["name"] / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(pbtxt(message))
    if python:
        (version / "model.py").write_text(MODEL_PY.format(model=python))
    return version


def _write_clip(path: Path) -> None:
    """A second of grey picture and faint noise, which warms the decoders and the face detector up."""
    with av.open(path, "w", format="matroska") as out:
        picture = out.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt = 320, 240, "yuv420p"
        sound = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 127, np.uint8), format="rgb24")
            out.mux(picture.encode(frame))
        noise = np.random.default_rng(0).integers(-99, 100, (1, 16000), np.int16)
        samples = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
        samples.sample_rate = 16000
        out.mux(sound.encode(samples))
        out.mux(picture.encode(None))
        out.mux(sound.encode(None))


def _dockerfile(wheel: str) -> str:
    return f"""\
# Triton with what the Python models of this repository import; written by mmx package --triton. User 1000 is Triton's.
FROM {IMAGE}

WORKDIR /opt/mmx
COPY requirements.txt {wheel} ./
RUN pip install --no-cache-dir --break-system-packages --no-deps -r requirements.txt ./{wheel}
WORKDIR /opt/tritonserver

USER 1000
"""
