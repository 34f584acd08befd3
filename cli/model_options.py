"""What ``mmx predict``, ``batch`` and ``serve`` have in common: the options of what answers, and how it reads media."""

from __future__ import annotations

import math

import click


class Window(click.ParamType[float | None]):
    """``utterance`` (None) or a number of seconds."""

    name = "utterance|SECONDS"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
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


window = click.option(
    "--window", type=Window(), default="utterance", show_default=True, help="Cut by utterance, or in fixed windows."
)
backend = click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="auto, onnxruntime, openvino, onnxruntime-cuda, tensorrt-rtx or tensorrt.",
)
device = click.option("--device", help="cpu, cuda, or cuda:1 for the second of several GPUs.")
precision = click.option(
    "--precision", default="fp32", show_default=True, help="fp32, bf16, or another that the bundle holds."
)
on_mismatch = click.option(
    "--on-mismatch",
    type=click.Choice(["error", "rebuild", "onnx"]),
    default="error",
    show_default=True,
    help="When the TensorRT engine is of another GPU, version or graph.",
)
faces = click.option(
    "--faces",
    type=click.Choice(["exact", "fast", "large", "track"]),
    default="exact",
    show_default=True,
    help="How faces are searched for; docs/faces.md says what each costs and saves.",
)
