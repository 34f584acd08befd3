"""Reads mutants of one file until one of them ends it: python attempts.py KIND SOURCE SCRATCH FIRST COUNT.

Prints a JSON line for each: its number before it is read, then ``read``, ``rejected`` or the traceback. Memory is
limited to what is in use before the first and ``MEMORY`` more; a mutant that takes ``SECONDS`` ends the process.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import resource
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

from mutators import mutated_bytes, mutated_graph, mutated_json

from mmx.runtime import Predictor
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import MmxError
from mmx.runtime.network import Network
from mmx.runtime.preprocess import Preprocessor
from mmx.runtime.types import Sample

MEMORY = 3 * 2**30
SECONDS = 300
Attempt = Callable[[Random], None]


def raise_faults(answers: list) -> None:
    """Of answers that are errors: those that report a fault of mmx."""
    for answer in answers:
        if type(answer) is MmxError:
            raise answer.__cause__ or answer


def bundles(source: Path, scratch: Path) -> Attempt:
    """The manifest; what opens answers for a sound."""
    copy, manifest = shutil.copytree(source, scratch / "copy.mmx"), (source / "manifest.json").read_bytes()

    def attempt(random: Random) -> None:
        (copy / "manifest.json").write_bytes(mutated_json(manifest, random))
        with Predictor(copy, backend="onnxruntime", threads=1, asr="none") as predictor:
            for prediction in predictor.predict(scratch.parent / "tone.wav", text="I am so glad."):
                json.dumps(prediction.to_dict(), allow_nan=False)

    return attempt


def records(source: Path, scratch: Path) -> Attempt:
    """The record of a variant; a bundle opens with or without it."""
    copy = shutil.copytree(source, scratch / "copy.mmx")
    (path,) = copy.glob("variants/*/record.json")
    record = path.read_bytes()

    def attempt(random: Random) -> None:
        path.write_bytes(mutated_json(record, random))
        bundle = Bundle.open(copy)
        if bundle.variants:
            bundle.graph(bundle.variants[0].record.precision)
        raise Rejected(bundle.passed_over)

    return attempt


class Rejected(MmxError):
    """Passed over."""


def graphs(source: Path, scratch: Path) -> Attempt:
    """The graph, its hash made right again: ONNX Runtime loads and runs it."""
    copy, graph = shutil.copytree(source, scratch / "copy.mmx"), (source / "model.onnx").read_bytes()
    manifest = json.loads((source / "manifest.json").read_bytes())
    bundle = Bundle.open(source)
    (segment,) = Preprocessor(bundle, threads=1).segments(scratch.parent / "tone.wav", text="I am so glad.")

    def attempt(random: Random) -> None:
        mutant = mutated_graph(graph, random)
        (copy / "model.onnx").write_bytes(mutant)
        manifest["files"]["model.onnx"] = hashlib.sha256(mutant).hexdigest()
        (copy / "manifest.json").write_text(json.dumps(manifest))
        with Network.open(Bundle.open(copy), "onnxruntime", "fp32", threads=1) as network:
            answers = network.each([segment.sample, Sample(None, segment.sample.faces, segment.sample.pieces)])
        raise_faults(answers)

    return attempt


def checkpoints(source: Path, scratch: Path) -> Attempt:
    """A file of torch.save, or safetensors."""
    from mmx.models.checkpoint import load_checkpoint

    data, path = source.read_bytes(), scratch / source.name

    def attempt(random: Random) -> None:
        path.write_bytes(mutated_bytes(data, random))
        load_checkpoint(path)

    return attempt


def tensors(source: Path, scratch: Path) -> Attempt:
    """An .npz archive as clients send it."""
    from mmx.serving.server.rejection import Rejection
    from mmx.serving.server.tensors import TensorLimits, read_sample

    data, limits = source.read_bytes(), TensorLimits(100, 100, 100, 1000, ("text", "visual", "audio"))

    def attempt(random: Random) -> None:
        try:
            read_sample(mutated_bytes(data, random), limits)
        except Rejection as e:
            raise Rejected(e.message) from e

    return attempt


def media(source: Path, scratch: Path) -> Attempt:
    """A video, a sound, or the transcript of one; read as a worker reads it."""
    bundle = Bundle.open(scratch.parent / "tiny.mmx")
    preprocessor = Preprocessor(bundle, threads=1)
    data, path = source.read_bytes(), scratch / source.name
    is_transcript = source.suffix in (".srt", ".vtt")

    def attempt(random: Random) -> None:
        path.write_bytes(mutated_bytes(data, random))
        file, transcript = (scratch.parent / "tone.wav", path) if is_transcript else (path, None)
        last = 0.0
        for number, segment in enumerate(preprocessor.segments(file, transcript=transcript, window=None)):
            assert segment.span.end >= segment.span.start >= 0 and number < 10_000
            last = segment.span.end
        assert last < 24 * 3600, f"three seconds of media end at {last} s"

    return attempt


KINDS = {
    "bundle": bundles,
    "record": records,
    "graph": graphs,
    "checkpoint": checkpoints,
    "tensors": tensors,
    "media": media,
}


def main() -> None:
    """See the module."""
    kind, source, scratch, first, count = sys.argv[1:]
    folder = Path(scratch)
    folder.mkdir()
    attempt = KINDS[kind](Path(source), folder)
    status = Path("/proc/self/statm").read_text().split()
    used = int(status[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in range(int(first), int(first) + int(count)):
        print(json.dumps({"number": number}), flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            attempt(Random(f"{kind} {number}"))
            end = "read"
        except MmxError as e:
            end = "rejected" if e.exit_code > 1 or isinstance(e, Rejected) else traceback.format_exc()
        except BaseException:
            end = traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"end": end}), flush=True)


if __name__ == "__main__":
    main()
