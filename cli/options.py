"""The options that several commands share: the same idea has the same name, form and default in each of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mmx.cli.paths import InPath
from mmx.runtime.errors import UsageError

if TYPE_CHECKING:
    from mmx.runtime.probabilities import Certainty

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# As in runtime.backends, whose import costs 0.2 s; a test compares them.
BACKENDS = ("onnxruntime", "openvino", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
DATASETS = ("iemocap", "mosei")


class Window(click.ParamType[float | None]):
    """``utterance`` (None) or a number of seconds."""

    name = "utterance|SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Parse the option's value."""
        if value == "utterance":
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            self.fail(f"{value!r} is neither 'utterance' nor a number of seconds over 0", param, ctx)
        return seconds


class Device(click.ParamType[str | None]):
    """``auto`` (None), ``cpu``, ``cuda`` or ``cuda:N``."""

    name = "auto|cpu|cuda|cuda:N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | None:
        """Parse the option's value."""
        if value == "auto":
            return None
        if not re.fullmatch(r"cpu|cuda(:\d+)?", str(value)):
            self.fail(f"{value!r} is not auto, cpu, cuda or cuda:N", param, ctx)
        return str(value)


class Several(click.ParamType[tuple[str, ...]]):
    """Names with commas between them, each one of ``known``; ``all`` for every one."""

    name = "LIST"

    def __init__(self, *known: str) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse the option's value."""
        if isinstance(value, tuple):
            return value
        found = tuple(dict.fromkeys(name.strip() for name in str(value).split(",") if name.strip()))
        if found == ("all",):
            return self.known
        for name in found:
            if name not in self.known:
                option = param.opts[0] if param else "option"
                raise UsageError(f"{option} {name} does not exist", f"choose from {', '.join(self.known)}, or all")
        return found


SHARED: dict[str, dict[str, Any]] = {
    "--window": {
        "type": Window(), "default": "utterance", "show_default": True,
        "help": "Cut by utterance, or in windows of a fixed length.",
    },
    "--backend": {
        "type": click.Choice(["auto", *BACKENDS]), "default": "auto", "show_default": True,
        "help": "What runs the network; auto: the fastest that works here.",
    },
    "--backends": {"type": Several(*BACKENDS), "help": "Backends with commas between them.  [default: all]"},
    "--device": {
        "type": Device(), "default": "auto", "show_default": True, "help": "cuda:1 is the second of several GPUs.",
    },
    "--precision": {
        "type": click.Choice(["auto", *PRECISIONS]), "default": "auto", "show_default": True,
        "help": "One that the bundle holds, or bf16 on OpenVINO; auto: what mmx optimize chose, or fp32.",
    },
    "--on-mismatch": {
        "type": click.Choice(["error", "rebuild", "onnx"]), "default": "error", "show_default": True,
        "help": "When the TensorRT engine was built for another GPU, version or graph.",
    },
    "--faces": {
        "type": click.Choice(["exact", "fast", "large", "track"]), "default": "exact", "show_default": True,
        "help": "How faces are searched for: docs/faces.md.",
    },
    "--people": {
        "default": "largest", "show_default": True, "metavar": "largest|left|right|center|region=X,Y,W,H|each|speaker",
        "help": "Whose face it is about where there are several: docs/people.md.",
    },
    "--video-track": {
        "type": click.IntRange(min=0), "help": "Which video track, from 0.  [default: the file's default one]",
    },
    "--audio-track": {
        "type": click.IntRange(min=0), "help": "Which audio track, from 0.  [default: the file's default one]",
    },
    "--asr": {
        "default": "auto", "show_default": True,
        "help": "What recognises speech where no words are given: auto, none, a model's folder or name (mmx asr list).",
    },
    "--language": {"help": "What is spoken (en, de, ...).  [default: detected, where that is possible]"},
    "--min-confidence": {
        "type": click.FloatRange(0, 1), "metavar": "P",
        "help": "Give no label where the most probable one has less, such as 0.6; the prediction then says why.",
    },
    "--max-error": {
        "type": click.FloatRange(0, 1), "metavar": "E",
        "help": "Give labels only so that at most this share of them is wrong, such as 0.1 (needs mmx calibrate "
        "--probabilities).",
    },
    "--file-seconds": {
        "type": click.FloatRange(min=0, min_open=True), "default": 3600, "show_default": True,
        "help": "What a worker may spend on one file.",
    },
    "--file-memory": {
        "type": click.IntRange(min=512), "default": 3072, "show_default": True, "help": "MB that a worker may use.",
    },
    "--file-pixels": {
        "type": click.IntRange(min=1), "default": 36_000_000, "show_default": True,
        "help": "Pixels of a frame, at most.",
    },
    "--format": {
        "type": click.Choice(["jsonl", "csv", "parquet"]),
        "help": "Of the results.  [default: what --out ends in]",
    },
    "--workers": {"type": click.IntRange(min=1), "help": "Processes that read media.  [default: one for each core]"},
    "--streams": {
        "type": click.IntRange(min=1),
        "help": "Concurrent copies of the network.  [default: on a CPU one for each core, up to 4]",
    },
    "--threads": {"type": click.IntRange(min=1), "help": "CPU threads of the network.  [default: all cores]"},
    "--batch-size": {"type": click.IntRange(min=1), "help": "Utterances in a batch, at most."},
    "--json": {"is_flag": True, "help": "Print JSON."},
    "--data": {
        "type": InPath(), "metavar": "DIR|TABLE", "help": "A processed data set, or a table or folder of clips.",
    },
    "--dataset": {"type": click.Choice(DATASETS), "help": "Which data set, where that is not clear."},
    "--compat": {
        "type": click.Choice(["default", "upstream"]),
        "help": "upstream: read media and data sets as the public code does.",
    },
    "--map": {"metavar": "OLD=NEW,...", "help": "Rename or merge labels of the data, or drop them (OLD=)."},
    "--columns": {
        "metavar": "KIND=NAME,...", "help": "A table's own names of its columns, such as file=clip,label=emotion.",
    },
    "--files": {"metavar": "GLOB", "help": "Where a table's files are looked up by name; of a folder: its clips."},
    "--cache": {"type": click.Path(path_type=Path), "help": "Where preprocessed samples are kept."},
    "--samples": {"type": click.IntRange(min=1), "help": "Samples to use."},
    "--seed": {"type": click.IntRange(min=0), "default": 0, "show_default": True, "help": "Of the random numbers."},
    "--system": {"help": "A name of mmx systems."},
    "--tokenizer": {"type": InPath(), "help": "Folder with ALBERT's spiece.model or tokenizer.json."},
    "--resume": {"is_flag": True, "help": "Go on where an earlier run stopped."},
}  # fmt: skip


def certainty_of(min_confidence: float | None, max_error: float | None) -> Certainty | None:
    """--min-confidence and --max-error; None where neither is given."""
    if min_confidence is None and max_error is None:
        return None
    from mmx.runtime.probabilities import Certainty

    return Certainty(min_confidence, max_error)


def check_people(people: str, faces: str) -> None:
    """Raise UsageError, before anything is loaded, for --people that are no choice or do not go with --faces."""
    if people != "largest":
        from mmx.runtime.people.choice import People

        People.parse(people, faces)


def shared(name: str, *more: str, **changes: Any) -> Callable[[Decorated], Decorated]:
    """The shared option ``name``; ``more``: as for ``click.option``; ``changes``: what this command does otherwise."""
    return click.option(name, *more, **{**SHARED[name], **changes})
