"""README.md of a bundle: the model card, in the Hugging Face card format, from the manifest alone."""

from __future__ import annotations

import json
from typing import Any

from mmx.runtime.manifest import Manifest

CARD = "README.md"


def model_card(manifest: Manifest, name: str) -> str:
    """The card of a bundle, ``ckpt.mmx`` by name; all that it holds is in the manifest too."""
    made, graph = manifest.provenance, manifest.graphs["fp32"]
    checkpoint = made["checkpoint"]
    counts = [made["counts"][side].values() for side in ("checkpoint", "graph")]
    parameters = [sum(part["parameters"] for part in side) for side in counts]
    parity = graph.parity
    fused = ", ".join(f"{modality} {weight:+.3f}" for modality, weight in manifest.fusion_weights.items())
    lines = [
        "---",
        "library_name: mmx",
        "tags: [emotion-recognition, multimodal, onnx]",
        f"model_name: {_quoted(name)}",
        "---",
        "",
        f"# {_plain(name)}",
        "",
        f"Emotion recognition from {_listed(manifest.modalities)}: the system `{manifest.system}`, exported by mmx",
        f"from `{_plain(checkpoint['file'])}` ({manifest.form} form).",
        "",
        "| | |",
        "| --- | --- |",
        f"| data set | {_plain(manifest.dataset)} |",
        f"| modalities | {_plain(', '.join(manifest.modalities))} |",
        f"| fusion | {_plain(fused) or 'inside the network'} |",
        f"| parameters | {parameters[0]:,} in the checkpoint, {parameters[1]:,} in the graph |",
        f"| graph | {graph.file}, FP32, ONNX opset {graph.opset} |",
        f"| parity | {_parity(parity)} |",
        f"| checkpoint | SHA-256 `{checkpoint['sha256']}` |",
        f"| made by | `{_plain(made['command'])}` |",
        f"| made with | {_plain(', '.join(f'{package} {number}' for package, number in made['versions'].items()))} |",
        "",
        "## Labels",
        "",
        "| label | predicted above |",
        "| --- | --- |",
        *(f"| {_plain(label)} | {t:.2f} |" for label, t in zip(manifest.labels, manifest.thresholds, strict=True)),
        "",
        f"The thresholds are {'the default' if made['thresholds'] == 'default' else 'those of the checkpoint'}.",
        "",
        "## Use",
        "",
        "```sh",
        f"mmx predict {_plain(name)} video.mp4",
        f"mmx inspect {_plain(name)}",
        "```",
        "",
    ]
    return "\n".join(lines)


def _parity(parity: dict[str, Any]) -> str:
    return (
        f"worst relative error {parity['worst']:.1e} against {parity['reference']} "
        f"over {len(parity['cases'])} batches, {parity['tolerance']:.0e} allowed"
    )


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _plain(text: str) -> str:
    """Text that stays within its cell and its line, whatever it holds."""
    return "".join(c if c.isprintable() and c not in "|`<>[]" else " " for c in text)


def _quoted(text: str) -> str:
    return json.dumps(text)
