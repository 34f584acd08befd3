"""Does merging the shortcut away make the visual trunk faster? The measurement that ``--residual auto`` obeys.

python studies/residual.py --out studies/results/residual.json
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import click
import torch

from mmx.benchmarks.measure.residual import Run, eager, in_onnxruntime, in_openvino, interleaved, to_onnx, visual_trunk
from mmx.evaluation.environment import describe
from mmx.export.folding.fold import fold
from mmx.runtime.files import write_text


@click.command()
@click.option("--rounds", default=40, show_default=True, help="Timed runs of each form for each number of faces.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the JSON goes.")
def main(rounds: int, out: Path | None) -> None:
    """Measure merge against keep in every engine that is installed."""
    torch.set_num_threads(1)
    environment = describe()
    trunks = [fold(visual_trunk(), form)[0] for form in ("merge", "keep")]
    graphs = [to_onnx(trunk) for trunk in trunks]
    engines: dict[str, tuple[Run, Run]] = {
        "onnxruntime": (in_onnxruntime(graphs[0]), in_onnxruntime(graphs[1])),
        "torch_eager": (eager(trunks[0]), eager(trunks[1])),
    }
    if find_spec("openvino"):
        engines["openvino"] = (in_openvino(graphs[0]), in_openvino(graphs[1]))
    measured = {name: interleaved(*pair, rounds) for name, pair in engines.items()}
    for name, result in measured.items():
        ratio = result["merge_over_keep"]
        click.echo(f"{name:<12} merge / keep: {ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]")
    if out is not None:
        report = {
            "command": f"python studies/residual.py --rounds {rounds} --out {out.name}",
            "what": "visual trunk of ours, one thread, time of merge over time of keep",
            "environment": asdict(environment),
            "engines": measured,
        }
        write_text(out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
