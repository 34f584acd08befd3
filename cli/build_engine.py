"""``mmx build-engine``: a bundle becomes a TensorRT engine."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mmx.cli.command import Renamed, command, verbose
from mmx.cli.free_parts import free_parts_of
from mmx.cli.options import PRECISIONS, shared
from mmx.cli.paths import BUNDLE, InPath
from mmx.cli.render import printable
from mmx.runtime.errors import UsageError

if TYPE_CHECKING:
    from mmx.export.engine.build import Built


class Bytes(click.ParamType[int]):
    """``512M``, ``2G`` or plain bytes."""

    name = "BYTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the option's value."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+)([kmg]?)(i?b)?", value.strip().lower())
        if not found:
            self.fail(f"{value!r} is not a size; write 512M or 2G", param, ctx)
        return int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[found[2]]


def _precision_flags(decorated: Callable[..., None]) -> Callable[..., None]:
    texts = {
        "fp32": "FP32, without TF32.",
        "fp16": "FP16, with FP32 where the range needs it.",
        "bf16": "bfloat16, with FP32 where the rounding needs it.",
        "int8": "INT8 where the bundle's INT8 graph (mmx calibrate) has it, and FP16 around that.",
        "fp8": "FP8 (E4M3) where the bundle's INT8 graph is INT8, and FP16 around; compute capability 8.9 or later.",
    }
    for name in reversed(PRECISIONS):
        decorated = click.option(f"--{name}", is_flag=True, help=f"--precision {name}: {texts[name]}")(decorated)
    return decorated


@command(renamed=[Renamed("--batch", "--batch-size")])
@click.argument("source", metavar="[BUNDLE]", type=BUNDLE, required=False)
@shared(
    "--precision", type=click.Choice(PRECISIONS), default=None, show_default=False,
    help="What the engine computes in; --fp16 is short for it.",
)  # fmt: skip
@_precision_flags
@click.option(
    "--target",
    help="rtx4090, rtx3090, rtx5090, ..., sm89, portable (8.0 and later) or native.  [default: the GPU here, or "
    "rtx4090]",
)
@click.option(
    "--flavour",
    type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]),
    default="auto",
    show_default=True,
    help="Which TensorRT.",
)
@click.option(
    "--profiles",
    default="short,typical,long",
    show_default=True,
    help="Shape profiles to build, or a JSON file with your own.",
)
@shared("--batch-size", default=8, show_default=True)
@click.option("--workspace", type=Bytes(), default=0, help="GPU memory that a layer may use, such as 2G.")
@click.option("--level", type=click.IntRange(0, 5), help="Optimisation level: higher builds longer.")
@shared("--samples", default=256, show_default=True, help="Utterances to compare the graph with FP32 on.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=1800,
    show_default=True,
    help="Stop comparing after this time; what is printed is what was compared.",
)
@click.option("--tolerance", type=click.FloatRange(min=0), help="Largest error of a logit.  [default: 0.01; bf16: 0.1]")
@click.option(
    "--max-flips",
    type=click.IntRange(min=0),
    help="Exit with 3 if more labels flip. Without it, more nodes stay FP32 until none flips.",
)
@click.option(
    "--inputs",
    type=InPath(folder=False),
    multiple=True,
    help="For an ONNX file: an .npz with the inputs of one run to compare on, instead of random ones (repeat it).",
)
@click.option(
    "--keep-fp32",
    metavar="PATTERN",
    multiple=True,
    help="Keep nodes in FP32, by name ('A.layers.3.*') or operator (Resize); -v lists the nodes (repeat it).",
)
@click.option(
    "--allow-half",
    metavar="PATTERN",
    multiple=True,
    help="Let no accuracy rule keep these nodes in FP32; the comparison still decides (repeat it).",
)
@click.option("--force", is_flag=True, help="Build even if the engine exists.")
def build_engine(
    source: Path | None,
    precision: str | None,
    target: str | None,
    flavour: str,
    profiles: str,
    batch_size: int,
    workspace: int,
    level: int | None,
    samples: int,
    seconds: float,
    tolerance: float | None,
    max_flips: int | None,
    inputs: tuple[Path, ...],
    keep_fp32: tuple[str, ...],
    allow_half: tuple[str, ...],
    force: bool,
    **precisions: bool,
) -> None:
    """Compile BUNDLE (default: the one in this folder) to a TensorRT engine, on any machine.

    TensorRT for RTX needs no GPU to build for one. The FP16 or BF16 graph is made first and compared with the FP32 one;
    what was measured is printed and kept in the bundle. BUNDLE may also be an ONNX file that mmx did not make: the
    engines of net.onnx go to net.engines/.

    \b
    mmx build-engine --fp16
    mmx build-engine --fp16 --target rtx3090 ckpt.mmx
    mmx build-engine --fp16 --profiles shapes.json net.onnx
    """
    asked = _asked(precision, precisions)
    if len(asked) != 1:
        problem = f"an engine has one precision, not {' and '.join(asked)}" if asked else "no precision was asked for"
        raise UsageError(problem, "mmx build-engine --fp16 (or --fp32, --bf16, --int8, --fp8)")
    from mmx.export.engine.build import Settings, build_engine
    from mmx.view.terminal import Progress

    path = source or bundle_here(Path.cwd())
    started = time.perf_counter()
    with Progress() as shown:
        built = build_engine(
            path,
            asked[0],
            target=target,
            flavour=flavour,
            profiles=Path(profiles) if profiles.endswith(".json") else tuple(profiles.split(",")),
            batch=batch_size,
            settings=Settings(workspace=workspace, level=level),
            samples=samples,
            seconds=seconds,
            tolerance=tolerance,
            max_flips=max_flips,
            inputs=inputs,
            keep_fp32=keep_fp32,
            allow_half=allow_half,
            force=force,
            report=shown.share,
        )
    if verbose():
        click.echo("\n".join([*_reasons(built), ""]))
    with free_parts_of(built.path, "mmx build-engine --force makes it again"):
        lines = summary(built, time.perf_counter() - started)
    click.echo("\n".join(map(printable, lines)))


def _asked(precision: str | None, flags: Mapping[str, bool]) -> list[str]:
    """The precisions that were asked for: those on the command line, or else those of the environment or mmx.toml."""
    ctx = click.get_current_context()
    given = {name: name for name, flag in flags.items() if flag} | ({"precision": precision} if precision else {})
    typed = {each for name, each in given.items() if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    return sorted(typed or set(given.values()))


def bundle_here(folder: Path) -> Path:
    """The one bundle in ``folder``, relative to it where possible; the folder itself, if it is one.

    Raises:
        UsageError: none, or several; they are listed.
    """
    if (folder / "manifest.json").is_file():
        return Path()
    found = sorted(path.name for path in folder.glob("*.mmx") if (path / "manifest.json").is_file())
    if not found:
        checkpoints = sorted(path.name for pattern in ("*.pt", "*.pth") for path in folder.glob(pattern))
        first = f"mmx export {shlex.quote(checkpoints[0])}" if checkpoints else "mmx export ckpt.pt"
        raise UsageError("there is no bundle in this folder", f"make one with {first}, or name one")
    if len(found) > 1:
        raise UsageError(f"there are {len(found)} bundles in this folder: {', '.join(found)}", "name one of them")
    return Path(found[0])


def summary(built: Built, seconds: float) -> list[str]:
    """What was built, a line each, and the next command."""
    from mmx.export.precision.current import sentence

    record = built.record
    parity = record.verification
    where = ", ".join(record.capabilities) or "8.0 and later"
    found = "built before" if built.variant_made else f"found in {1000 * seconds:.0f} ms"
    how = found if built.cached else f"built in {record.made['seconds']:.0f} s"
    total = sum(record.weights.values())
    weights = ", ".join(f"{100 * count / total:.1f} % {name}" for name, count in record.weights.items())
    lines = [f"{built.path}"]
    if "quantised" in parity:
        own = f", INT8 by itself within {parity['error_in_fp32']:.1e}" if parity["error_in_fp32"] is not None else ""
        lines += [
            f"  graph       {record.graph}: {parity['quantised']} weights in {record.precision.upper()}, around them "
            f"{parity['half_nodes']} nodes in FP16, {parity['fp32_nodes']} in FP32 (-v says why)",
            f"  accuracy    {sentence(parity)}{own}",
        ]
    elif "half_nodes" in parity:
        kept = ", ".join(f"{count} {rule}" for rule, count in parity["kept_fp32"].items())
        lines += [
            f"  graph       {record.graph}: {parity['half_nodes']} nodes in {record.precision}, "
            f"{parity['fp32_nodes']} in FP32 ({kept}; -v says why)",
            f"  accuracy    {sentence(parity)}",
        ]
    elif "worst" in parity:
        lines.append(f"  graph       {record.graph}, worst relative error {parity['worst']:.1e} against PyTorch")
    return [
        *lines,
        f"  engine      {record.size / 2**20:.1f} MB, {how} with {record.flavour} {record.version}",
        f"  target      {record.target}, compute capability {where}",
        f"  weights     {weights}; logits float32",
        f"  profiles    {', '.join(profile.name for profile in record.profiles)}",
        "  not run     an engine runs on its GPU only; it was not run here",
        "",
        "next:",
        f"  mmx inspect {shlex.quote(str(built.path))}",
        f"  {_run_it(built)}   (where the GPU is)",
    ]


def _run_it(built: Built) -> str:
    """The command that runs the engine."""
    record = built.record
    if built.bundle is not None:
        bundle = shlex.quote(str(built.bundle.path))
        return f"mmx predict {bundle} video.mp4 --backend {record.flavour} --precision {record.precision}"
    return (
        f"{'trtexec' if record.flavour == 'tensorrt' else 'tensorrt_rtx'} --loadEngine={shlex.quote(str(built.path))}"
    )


def _reasons(built: Built) -> Iterator[str]:
    """Every node that stays FP32 and why, out of the variant itself."""
    from mmx.export.precision.variant import reasons
    from mmx.export.precision.view import read_graph

    for name, kind, why in reasons(read_graph(built.source.graph)):
        yield f"  {kind:20} {name}: {why}"
