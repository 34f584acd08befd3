"""What ``mmx doctor`` tries. Each probe does the thing once, really, and says what it found or how it failed."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import io
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmx.cli import tiny_onnx
from mmx.runtime.errors import MmxError
from mmx.runtime.extras import install_command
from mmx.runtime.machine import cpu_flags, cpu_name, usable_cores


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``status``: ok (it was tried and worked) | missing (not installed) | failed."""

    name: str
    status: str
    detail: str
    install: str = ""


class Missing(Exception):
    """Not installed. ``args``: what is missing, and the command that installs it."""


def find(probe: str) -> list[Finding]:
    """Run one probe of ``PROBES``; whatever it raises becomes a finding."""
    try:
        return list(PROBES[probe]())
    except Missing as e:
        return [Finding(probe, "missing", *e.args)]
    except MmxError as e:
        return [Finding(probe, "failed", e.message, e.hint)]
    except Exception as e:
        return [Finding(probe, "failed", f"{type(e).__name__}: {e}".splitlines()[0])]


def _python() -> Iterator[Finding]:
    place = f"{platform.system()} {platform.machine()}, {usable_cores()} CPU cores to use"
    fine = sys.version_info >= (3, 11)
    yield Finding(
        "python", "ok" if fine else "failed", f"{platform.python_version()}, {place}", "" if fine else "3.11+"
    )


def _cpu() -> Iterator[Finding]:
    """Only Linux says it; elsewhere there is no line."""
    if not (flags := cpu_flags()):
        return
    known = [f for f in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8") if f in flags]
    yield Finding("cpu", "ok", f"{cpu_name()}: {' '.join(known) or 'no vector extension known to this list'}")


def _onnxruntime() -> Iterator[Finding]:
    ort = _package("onnxruntime", "pip install onnxruntime")
    for provider in ort.get_available_providers():
        if provider == "AzureExecutionProvider":
            continue  # calls a web service; there is nothing to try on this machine
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if provider != "CPUExecutionProvider":  # else a provider that can't load hands its work to the CPU silently
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        name = f"onnxruntime {provider.removesuffix('ExecutionProvider')}"
        try:
            session = ort.InferenceSession(tiny_onnx.model(), options, providers=[provider])
            if provider not in session.get_providers():
                raise RuntimeError(f"ONNX Runtime gave {session.get_providers()} instead")
            _check_product(session.run(["y"], {"x": tiny_onnx.X})[0])
        except Exception as e:
            yield Finding(name, "failed", str(e).splitlines()[0])
        else:
            yield Finding(name, "ok", f"{ort.__version__}, ran a model")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        swap = "pip uninstall -y onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]' (never both)"
        yield Finding("onnxruntime CUDA", "missing", "this onnxruntime has no CUDA provider", swap)
    if len(both := _installed("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")) > 1:
        again = f"pip uninstall -y {' '.join(both)}, then install one of them"
        yield Finding("onnxruntime", "failed", f"{' and '.join(both)} overwrite each other's files", again)


def _openvino() -> Iterator[Finding]:
    openvino = _package("openvino", install_command("openvino"))
    core = openvino.Core()
    for device in core.available_devices:
        try:
            compiled = core.compile_model(core.read_model(tiny_onnx.model(), b""), device)
            _check_product(compiled(tiny_onnx.X)[0])
            full_name = core.get_property(device, "FULL_DEVICE_NAME")
            types = " ".join(
                t for t in core.get_property(device, "OPTIMIZATION_CAPABILITIES") if t[:2] in ("FP", "BF", "IN")
            )
        except Exception as e:
            yield Finding(f"openvino {device}", "failed", str(e).splitlines()[0])
        else:
            version = importlib.metadata.version("openvino")
            yield Finding(f"openvino {device}", "ok", f"{version}, ran a model on {full_name} ({types})")


def _pyav() -> Iterator[Finding]:
    """Encode eight frames and a second of sound to MP4 in memory, and decode them again."""
    av = _package("av", "pip install av")
    av.logging.set_level(None)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        video, sound = out.add_stream("mpeg4", rate=8), out.add_stream("aac", rate=16000)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        sound.layout = "mono"
        for shade in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 32 * shade, np.uint8), format="rgb24")
            out.mux(video.encode(frame))
        tone = np.sin(np.arange(16000, dtype=np.float32)[None] / 10)
        samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        samples.sample_rate = 16000
        out.mux(sound.encode(samples))
        out.mux([*video.encode(None), *sound.encode(None)])
    file.seek(0)
    with av.open(file) as clip:
        frames = sum(1 for _ in clip.decode(video=0))
        clip.seek(0)
        heard = sum(frame.samples for frame in clip.decode(audio=0))
    if frames != 8 or heard < 16000:
        raise RuntimeError(f"wrote 8 frames and 16000 samples, read back {frames} and {heard}")
    ffmpeg = getattr(av, "ffmpeg_version_info", "")
    yield Finding("ffmpeg (PyAV)", "ok", f"PyAV {av.__version__}, FFmpeg {ffmpeg}, wrote and read a clip")


def _sentencepiece() -> Iterator[Finding]:
    """Train the smallest model on one sentence, and encode with it."""
    sentencepiece = _package("sentencepiece", "pip install sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f"] * 8),
        model_writer=model,
        vocab_size=12,
        minloglevel=9,
        hard_vocab_limit=False,
    )
    ids = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).encode("a b")
    if not ids:
        raise RuntimeError("encoded 'a b' to no ids at all")
    yield Finding("sentencepiece", "ok", f"{sentencepiece.__version__}, trained and encoded")


def _speech() -> Iterator[Finding]:
    """Load the model that --asr auto takes, find no voice in noise, and have the model listen to a hum."""
    from mmx.runtime.speech.find import VARIABLE, automatic, find_recogniser
    from mmx.runtime.speech.recogniser import SAMPLE_RATE
    from mmx.runtime.speech.voice import speech

    chosen, variable = automatic(), f" ({VARIABLE})" if os.environ.get(VARIABLE) else ""
    if chosen == "none":
        yield Finding("speech", "missing", f"{VARIABLE} is none: no speech is recognised", f"unset {VARIABLE}")
        return
    _package("faster_whisper", install_command("asr"))
    if chosen is None:
        raise Missing(
            "no multilingual Whisper in the Hub's cache: --asr auto leaves the text out", "mmx asr pull small"
        )
    noise = 0.01 * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32)
    if found := speech(noise):
        raise RuntimeError(f"voice activity detection hears {len(found)} voices in noise")
    began = time.perf_counter()
    recogniser = find_recogniser(chosen)
    assert recogniser is not None
    loaded = time.perf_counter()
    hum = 0.1 * np.sin(np.arange(2 * SAMPLE_RATE, dtype=np.float32) * (2 * np.pi * 150 / SAMPLE_RATE))
    if recogniser.detects_language:
        recogniser.detect_language(hum)
    recogniser.recognise(hum, "en")
    took = f"loaded in {loaded - began:.1f} s, heard 2 s of sound in {time.perf_counter() - loaded:.1f} s"
    language = "" if recogniser.detects_language else "; it cannot detect the language, so it is used with --language"
    yield Finding("speech", "ok", f"{recogniser.name}{variable}, {took}{language}")


def _prediction() -> Iterator[Finding]:
    from mmx.cli.sample_probe import predict_here, predict_with_a_worker

    yield Finding("prediction", "ok", predict_here())
    yield Finding("worker process", "ok", predict_with_a_worker())


def _torch() -> Iterator[Finding]:
    torch = _package("torch", install_command("export"))
    _check_product((torch.tensor(tiny_onnx.X) @ torch.tensor(tiny_onnx.X)).numpy())
    gpu = f"CUDA {torch.version.cuda} usable" if torch.cuda.is_available() else "no usable GPU"
    yield Finding("torch", "ok", f"{torch.__version__}, multiplied matrices, {gpu}")


def _onnx() -> Iterator[Finding]:
    onnx = _package("onnx", install_command("export"))
    onnx.checker.check_model(tiny_onnx.model())
    script = _package("onnxscript", install_command("export"))
    yield Finding("onnx", "ok", f"{onnx.__version__}, checked a model; onnxscript {script.__version__} imports")


def _face_nets() -> Iterator[Finding]:
    from mmx.export.assets import find_face_nets

    ort = _package("onnxruntime", "pip install onnxruntime")
    nets = find_face_nets()
    for path in nets.values():
        ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    yield Finding("face nets", "ok", f"{' '.join(nets)} of mtcnn-runtime load (export puts them in the bundle)")


def _tensorrt() -> Iterator[Finding]:
    yield from _try_tensorrt("tensorrt", f"{install_command('tensorrt')} (its wheels come from NVIDIA's own index)")


def _tensorrt_rtx() -> Iterator[Finding]:
    yield from _try_tensorrt("tensorrt_rtx", install_command("tensorrt-rtx"))


def _try_tensorrt(name: str, install: str) -> Iterator[Finding]:
    """Parse a model with a builder. That needs no GPU with TensorRT for RTX, and one with TensorRT."""
    trt = _package(name, install)
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    if not trt.OnnxParser(network, logger).parse(tiny_onnx.model()):
        raise RuntimeError("its parser rejected a valid model")
    yield Finding(name, "ok", f"{trt.__version__}, made a builder and parsed a model (running an engine needs a GPU)")


def _cuda() -> Iterator[Finding]:
    """Ask the driver itself (libcuda), without any toolkit."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as e:
        raise Missing("no CUDA driver (libcuda) on this machine", "an NVIDIA driver, if there is an NVIDIA GPU") from e

    def call(function: str, *arguments: Any) -> None:
        if code := getattr(cuda, function)(*arguments):
            raise RuntimeError(f"{function} gave CUDA error {code}")

    version, count = ctypes.c_int(), ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(count))
    yield Finding("cuda driver", "ok", f"CUDA {version.value // 1000}.{version.value % 1000 // 10}, {count.value} GPUs")
    for number in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        label, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        call("cuDeviceGet", ctypes.byref(device), number)
        call("cuDeviceGetName", label, len(label), device)
        call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        call("cuDeviceGetAttribute", ctypes.byref(major), 75, device)  # compute capability, major
        call("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)  # and minor
        detail = f"{label.value.decode()}, SM{major.value}{minor.value}, {memory.value / 2**30:.0f} GiB"
        yield Finding(f"gpu {number}", "ok", detail)


def _installed(*names: str) -> list[str]:
    return [name for name in names if any(importlib.metadata.distributions(name=name))]


def _package(name: str, install: str) -> Any:
    """Import a package, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name != name:
            raise
        raise Missing("not installed", install) from e


def _check_product(found: Any) -> None:
    if not np.allclose(found, tiny_onnx.Y, rtol=1e-2):
        raise RuntimeError(f"it ran, but gave {np.asarray(found).tolist()} for {tiny_onnx.Y.tolist()}")


# The findings without which there is no prediction.
CORE = ("python", "onnxruntime CPU", "ffmpeg (PyAV)", "sentencepiece", "prediction", "worker process")

# In the order of the report.
PROBES: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": _python,
    "onnxruntime": _onnxruntime,
    "ffmpeg (PyAV)": _pyav,
    "sentencepiece": _sentencepiece,
    "prediction": _prediction,
    "cpu": _cpu,
    "openvino": _openvino,
    "speech": _speech,
    "torch": _torch,
    "onnx": _onnx,
    "face nets": _face_nets,
    "cuda driver": _cuda,
    "tensorrt": _tensorrt,
    "tensorrt_rtx": _tensorrt_rtx,
}
