"""The ``mmx`` command: lists sub-commands without importing them, turns errors into one line and an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import click

from mmx.runtime.errors import MmxError, missing_extra

INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C

# No command gains from numpy's own threads, and now and then OpenBLAS 0.3.31
# does not wake one that it then waits for.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported


@dataclass(frozen=True)
class Entry:
    """One sub-command: what it does, the extra it belongs to ("" = core), and the packages that extra must bring."""

    help: str
    extra: str = ""
    needs: tuple[str, ...] = ()


# In the order a user meets them. `mmx.cli.<name>` holds a click command of the same name ("-" becomes "_").
ENTRIES = {
    "export": Entry("Turn a checkpoint into a bundle and check parity.", "export", ("torch", "onnx")),
    "inspect": Entry("Show a checkpoint's or bundle's folds, parameters and MACs."),
    "predict": Entry("Predict the emotions in video files."),
    "serve": Entry("Answer over HTTP, for many people at once.", "serve", ("fastapi", "uvicorn")),
    "batch": Entry("Answer for thousands of files, here or on Ray; write Parquet.", "batch", ("pyarrow", "fsspec")),
    "transcribe": Entry("Recognise what is said in a video; write subtitles.", "asr", ("faster_whisper",)),
    "asr": Entry("List the speech models on this machine, or fetch one.", "asr", ("faster_whisper",)),
    "doctor": Entry("Try what this machine can run; say what to install."),
    "systems": Entry("List the systems that mmx knows."),
    "synth": Entry("Make a synthetic data set to train, score and calibrate on."),
    "prepare": Entry("Turn a raw IEMOCAP or MOSEI release into a data set to train on.", "prepare", ("PIL",)),
    "data": Entry("Check a table of your own clips before training on it."),
    "train": Entry("Train a system on a processed data set.", "training", ("torch",)),
    "eval": Entry("Score a checkpoint or a bundle on a data set, in every precision.", "training", ("torch",)),
    "bench": Entry("Measure systems against each other on this machine.", "export", ("torch", "onnx")),
    "profile": Entry("Show where a bundle spends its time, layer by layer.", "export", ("onnx",)),
    "calibrate": Entry("Give a bundle an INT8 graph, if it is as good and faster.", "calibration", ("torch",)),
    "package": Entry("Pack a bundle for Triton, or as a Docker image of the server."),
    "build-engine": Entry("Compile a bundle to a TensorRT engine.", "tensorrt-rtx", ("tensorrt_rtx",)),
}

# Which extra brings a package that a command imports when it needs it.
EXTRA_OF = {
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "scipy": "export",
    "sklearn": "export",
    "matplotlib": "bench",
    "mtcnnruntime": "export",
    "openvino": "openvino",
    "tensorrt_rtx": "tensorrt-rtx",
    "tensorrt": "tensorrt",
    "tokenizers": "tokenizers",
    "PIL": "render",
    "h5py": "prepare",
    "pyarrow": "batch",
    "fsspec": "batch",
    "ray": "ray",
}


def _module_name(command: str) -> str:
    return f"mmx.cli.{command.replace('-', '_')}"


class LazyGroup(click.Group):
    """A group that imports a sub-command's module when it is run, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The sub-commands whose module is part of this installation."""
        return [name for name in ENTRIES if find_spec(_module_name(name))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one sub-command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(import_module(_module_name(cmd_name)), cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line for each sub-command, with the pip command where its extra is missing."""
        rows = []
        for name in self.list_commands(ctx):
            entry = ENTRIES[name]
            missing = any(find_spec(package) is None for package in entry.needs)
            rows.append((name, entry.help + (f" (needs: pip install 'mmx[{entry.extra}]')" if missing else "")))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mmx", message="%(prog)s %(version)s")
@click.pass_context
def mmx(ctx: click.Context) -> None:
    """From a multimodal emotion checkpoint to the emotions in a video.

    \b
    mmx export ckpt.pt                        writes ckpt.mmx, the bundle
    mmx predict ckpt.mmx talk.mp4 --text ...  runs it, without torch
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def print_error(message: str, hint: str = "") -> None:
    """Print ``mmx: error: message`` and, on a second line, the hint, to stderr; control characters are escaped."""
    lines = f"mmx: error: {message}" + (f"\nhint: {hint}" if hint else "")
    click.echo("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in lines), err=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (``sys.argv`` when None) and return the exit code.

    A sub-command returns None or its own exit code. An ``MmxError`` exits with its own code, a mistyped command line
    with 2, Ctrl-C with 130; any other exception is a bug and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows "?", and nothing crashes
    try:
        code = mmx.main(args=None if argv is None else list(argv), prog_name="mmx", standalone_mode=False)
    except MmxError as e:
        print_error(e.message, e.hint)
        return e.exit_code
    except click.ClickException as e:
        context = getattr(e, "ctx", None)
        print_error(e.format_message(), f"{context.command_path if context else 'mmx'} --help")
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ModuleNotFoundError as e:
        package = (e.name or "").partition(".")[0]
        if package not in EXTRA_OF or find_spec(package) is not None:
            raise
        error = missing_extra(package, EXTRA_OF[package])
        print_error(error.message, error.hint)
        return error.exit_code
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
