"""The ``mmx`` command: lists sub-commands without importing them, turns errors into one line and an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from mmx.cli import config
from mmx.cli.command import output_options
from mmx.runtime.errors import EnvironmentMissing, MmxError, missing_extra
from mmx.runtime.extras import install_command
from mmx.runtime.files import NO_ROOM

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


TORCH = ("torch", "onnx")

# By what they are for, in the order a user meets them. `mmx.cli.<name>` holds a click command of the same name ("-"
# becomes "_").
SECTIONS = {
    "Make": {
        "export": Entry("Turn a checkpoint into a bundle; check its parity with PyTorch.", "export", TORCH),
        "inspect": Entry("Show what is in a checkpoint, a bundle or an engine."),
        "build-engine": Entry("Compile a bundle to a TensorRT engine.", "tensorrt-rtx", ("tensorrt_rtx",)),
        "calibrate": Entry("Add an INT8 graph to a bundle, if it is as good and faster.", "calibration", ("torch",)),
    },
    "Use": {
        "predict": Entry("Predict the emotions in video files."),
        "live": Entry("Predict while a camera or a stream goes on."),
        "batch": Entry("Predict for thousands of files, here or on Ray.", "batch", ("pyarrow", "fsspec")),
        "serve": Entry("Predict over HTTP, for many users at once.", "serve", ("fastapi", "uvicorn")),
        "package": Entry("Pack a bundle for Triton, or as a Docker image of the server."),
        "transcribe": Entry("Transcribe the speech in a video; write subtitles.", "asr", ("faster_whisper",)),
        "asr": Entry("List the speech models on this machine, or download one.", "asr", ("faster_whisper",)),
    },
    "Share": {
        "push": Entry("Upload a bundle to the Hugging Face Hub, with its model card.", "hub", ("huggingface_hub",)),
        "pull": Entry("Download a bundle from the Hugging Face Hub.", "hub", ("huggingface_hub",)),
        "sign": Entry("Sign a bundle with your own key.", "sign", ("model_signing",)),
        "verify": Entry("Compare a bundle with its signature.", "sign", ("model_signing",)),
    },
    "Measure": {
        "optimize": Entry("Find how a bundle runs fastest here; auto follows it.", "export", ("sklearn", "scipy")),
        "bench": Entry("Compare systems and backends on this machine.", "export", TORCH),
        "eval": Entry("Score a checkpoint or a bundle on a data set, in every precision.", "training", ("torch",)),
        "profile": Entry("Show where a bundle spends its time, layer by layer.", "export", ("onnx",)),
    },
    "Data and training": {
        "synth": Entry("Make a synthetic data set to train, score and calibrate on."),
        "prepare": Entry("Turn a raw IEMOCAP or MOSEI release into a data set.", "prepare", ("PIL",)),
        "data": Entry("Check a table of your own clips before training on it."),
        "train": Entry("Train a system on a data set.", "training", ("torch",)),
        "systems": Entry("List the systems that mmx knows."),
    },
    "This machine": {
        "doctor": Entry("Try what this machine can run; show what to install."),
    },
}
ENTRIES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}

# Which extra brings a package that a command imports when it needs it.
EXTRA_OF = {
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "scipy": "export",
    "sklearn": "export",
    "mtcnnruntime": "export",
    "matplotlib": "bench",
    "openvino": "openvino",
    "tensorrt_rtx": "tensorrt-rtx",
    "cuda": "tensorrt-rtx",
    "tensorrt": "tensorrt",
    "tokenizers": "tokenizers",
    "PIL": "render",
    "pandas": "pandas",
    "h5py": "prepare",
    "fastapi": "serve",
    "h11": "serve",
    "prometheus_client": "serve",
    "pydantic": "serve",
    "python_multipart": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "pyarrow": "batch",
    "fsspec": "batch",
    "ray": "ray",
    "model_signing": "sign",
    "faster_whisper": "asr",
    "huggingface_hub": "hub",
    "onnx_asr": "asr",
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; for a name that is nearly right, name the command."""
        if not args[0].startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            close = get_close_matches(args[0], self.list_commands(ctx), 1)
            raise click.UsageError(
                f"there is no command {args[0]!r}" + (f"; did you mean {close[0]}?" if close else ""), ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line for each sub-command, with the pip command where its extra is missing."""
        here = self.list_commands(ctx)
        for title, entries in SECTIONS.items():
            rows = []
            for name, entry in entries.items():
                missing = any(find_spec(package) is None for package in entry.needs)
                needs = f" (needs: {install_command(entry.extra)})" if missing else ""
                rows += [(name, entry.help + needs)] * (name in here)
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _read_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    """Read mmx.toml, and take from it what is outside its tables."""
    if ctx.resilient_parsing:
        return
    path = value or (Path(config.NAME) if Path(config.NAME).is_file() else None)
    if path is not None:
        found = config.read_config(path, tuple(ENTRIES))
        ctx.meta[config.KEY] = found
        own = {key: each for key, each in found.content.items() if not isinstance(each, dict)}
        ctx.default_map = config.defaults(config.Table(str(path), own), ctx.command.params, ctx)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Every option is also an environment variable, such as MMX_PREDICT_BACKEND, and a key of mmx.toml: "
    "docs/cli.md.",
)
@click.version_option(package_name="mmx", message="%(prog)s %(version)s")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    envvar="MMX_CONFIG",
    show_envvar=True,
    help=f"Settings for every command.  [default: {config.NAME} in this folder]",
)
@click.pass_context
def mmx(ctx: click.Context) -> None:
    """From a multimodal emotion checkpoint to the emotions in a video.

    \b
    mmx export ckpt.pt                        writes ckpt.mmx, the bundle
    mmx predict ckpt.mmx talk.mp4 --text ...  runs it, without torch
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


mmx.params += output_options()


def print_error(message: str, hint: str = "") -> None:
    """Print ``mmx: error: message`` and, on a second line, the hint, to stderr; control characters are escaped."""
    lines = f"mmx: error: {message}" + (f"\nhint: {hint}" if hint else "")
    click.echo("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in lines), err=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (``sys.argv`` when None) and return the exit code.

    A sub-command returns None or its own exit code. An ``MmxError`` exits with its own code, a mistyped command line
    with 2, a disk that is full with 4, Ctrl-C with 130; any other exception is a bug and keeps its traceback.
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
    except OSError as e:
        if e.errno not in NO_ROOM and "No usable temporary directory" not in str(e):
            raise
        what = f"{e.filename} cannot be written" if e.filename else "a temporary file cannot be written"
        print_error(f"{what}: {e.strerror}", "free some space, or let TMPDIR name a folder that has some")
        return EnvironmentMissing.exit_code
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
