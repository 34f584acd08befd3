"""README.md of a bundle: the model card, in the Hugging Face card format.

``mmx export`` writes it from the manifest, once. What was measured later is in records under ``variants/``; with these,
``mmx inspect --card`` and ``mmx push`` render it anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmx.runtime.manifest import Manifest
from mmx.runtime.manifest_reader import FACE_NETS
from mmx.runtime.notices import FLAGS, LAW, LIMITS, MISUSES, USES, model_flags
from mmx.runtime.records import EngineRecord, EvaluationRecord, GraphRecord, ProbabilitiesRecord, Record

CARD = "README.md"
NOT_STATED = "not stated"
DATA = {
    "iemocap": "IEMOCAP (Busso et al. 2008): acted dialogues in English; its licence is for research",
    "mosei": "CMU-MOSEI (Zadeh et al. 2018): English monologues from YouTube; the videos are their uploaders'",
    "synthetic": "made by mmx synth: drawn faces, synthesised voices, composed sentences; no licence needed",
}
LANGUAGES = {"en": "English"}


def model_card(manifest: Manifest, name: str, records: Sequence[Record] = ()) -> str:
    """The card of a bundle, ``ckpt.mmx`` by name, with what its variants' records say, newest first."""
    return "\n".join([*_front(manifest, name, records), *_body(manifest, name, records), ""])


def _front(manifest: Manifest, name: str, records: Sequence[Record]) -> Iterator[str]:
    """The metadata block, which is YAML; JSON strings are."""
    licence = manifest.provenance.get("license")
    yield "---"
    yield "library_name: mmx"
    yield f"model_name: {_quoted(name)}"
    yield "tags: [emotion-recognition, multimodal, onnx]"
    yield "pipeline_tag: video-classification"
    if "text" in manifest.modalities:
        yield f"language: {json.dumps(list(manifest.preprocessing.text.languages))}"
    if licence:
        yield f"license: {_quoted(licence)}"
    yield f"datasets: [{_quoted(manifest.dataset)}]"
    found = [each for each in _evaluations(records) if each.rows]
    if found:
        yield "model-index:"
        yield f"- name: {_quoted(name)}"
        yield "  results:"
    for each in found:
        yield "  - task: {type: video-classification}"
        yield f"    dataset: {{type: {_quoted(each.data)}, name: {_quoted(each.data)}, split: {_quoted(each.split)}}}"
        yield "    metrics:"
        for metric in ("f1", "accuracy"):
            if (value := getattr(each.rows[0], metric)) is not None:
                yield f"    - {{type: {metric}, value: {value:.4f}}}"
    yield "---"
    yield ""


def _body(manifest: Manifest, name: str, records: Sequence[Record]) -> Iterator[str]:
    made = manifest.provenance
    checkpoint = made["checkpoint"]
    yield f"# {_plain(name)}"
    yield ""
    for flag in model_flags(manifest):
        yield from (f"**{FLAGS[flag]}**", "")
    yield f"Emotion recognition from {_listed(manifest.modalities)}: the system `{_plain(manifest.system)}`,"
    yield f"exported by mmx from `{_plain(checkpoint['file'])}` ({_plain(manifest.form)} form)."
    yield from _list("Intended use", USES)
    yield from _list("Not for", MISUSES)
    yield from ("", "## The law", "", LAW)
    yield from ("", "## Model", "", "| | |", "| --- | --- |", *_model_rows(manifest))
    yield from _labels(manifest)
    yield from _data(manifest)
    yield from _scores(name, records)
    yield from _variants(name, records)
    yield from _list("Limits", LIMITS)
    yield from _licences(manifest)
    yield from (
        "",
        "## Use",
        "",
        "```sh",
        f"mmx predict {_plain(name)} video.mp4",
        f"mmx inspect {_plain(name)}",
        "```",
    )


def _model_rows(manifest: Manifest) -> Iterator[str]:
    made, graph = manifest.provenance, manifest.graphs["fp32"]
    fused = ", ".join(f"{modality} {weight:+.3f}" for modality, weight in manifest.fusion_weights.items())
    counts = [made["counts"][side].values() for side in ("checkpoint", "graph")]
    parameters = [sum(part["parameters"] for part in side) for side in counts]
    versions = ", ".join(f"{package} {number}" for package, number in made["versions"].items())
    yield f"| modalities | {_plain(', '.join(manifest.modalities))} |"
    yield f"| fusion | {_plain(fused) or 'inside the network'} |"
    yield f"| parameters | {parameters[0]:,} in the checkpoint, {parameters[1]:,} in the graph |"
    yield f"| graph | {graph.file}, FP32, ONNX opset {graph.opset} |"
    yield f"| parity | {_parity(graph.parity)} |"
    yield f"| checkpoint | SHA-256 `{made['checkpoint']['sha256']}` |"
    yield f"| made by | `{_plain(made['command'])}` |"
    yield f"| made with | {_plain(versions)} |"


def _labels(manifest: Manifest) -> Iterator[str]:
    yield from ("", "## Labels", "", "| label | predicted above |", "| --- | --- |")
    for label, threshold in zip(manifest.labels, manifest.thresholds, strict=True):
        yield f"| {_plain(label)} | {threshold:.2f} |"
    default = manifest.provenance["thresholds"] == "default"
    yield from ("", f"Thresholds: {'the default' if default else 'those of the checkpoint'}, before calibration.")


def _data(manifest: Manifest) -> Iterator[str]:
    languages = manifest.preprocessing.text.languages
    spoken = ", ".join(LANGUAGES.get(each, each) for each in languages) if "text" in manifest.modalities else "any"
    yield from ("", "## Data", "", f"Trained on: {_plain(DATA.get(manifest.dataset, manifest.dataset))}.")
    yield f"Languages of the text: {_plain(spoken)}."
    for what, value in (manifest.provenance["checkpoint"].get("assumptions") or {}).items():
        yield f"Assumed of the checkpoint: {_plain(what)} = {_plain(str(value))}."


def _scores(name: str, records: Sequence[Record]) -> Iterator[str]:
    """Scores, calibration and speed of each data set that it was evaluated on."""
    yield from ("", "## Scores")
    found = list(_evaluations(records))
    if not found:
        yield from ("", f"Not measured: `mmx eval {_plain(name)} --data DIR` measures them.")
    for each in found:
        yield from ("", f"### {_plain(each.data)}, {_plain(each.split)} split, {each.samples} utterances", "")
        yield from ("| run by | F1 | accuracy | weighted accuracy | ms | speed |", "| --- |" + " ---: |" * 5)
        for row in each.rows:
            ms, first = row.milliseconds, each.rows[0].milliseconds
            speed = f"{ms:.1f} | {first / ms:.2f}x" if ms and first else "- | -"
            yield f"| {_plain(row.name)} | {_percents(row.f1, row.accuracy, row.weighted_accuracy)} | {speed} |"
        yield ""
        yield "Scores in percent, means over the labels. ms: median of one utterance, single-threaded, interleaved"
        yield f"(speed: against the first row), on {_plain(each.cpu)}."
        yield from _trust(each)
        yield from ("", f"Measured {_plain(each.created[:10])} with mmx {_plain(str(each.made.get('mmx', '?')))}.")


def _trust(found: EvaluationRecord) -> Iterator[str]:
    """Calibration and coverage by set of modalities, and scores under faults."""
    if found.sets:
        yield from ("", "| probabilities of | samples | ECE | Brier | given | wrong |", "| --- |" + " ---: |" * 5)
    for each in found.sets:
        error = _change(each.calibration_error, each.calibrated_error)
        cells = f"{error} | {_change(each.brier, each.calibrated_brier)} | {_percents(each.coverage, each.error)}"
        yield f"| {_plain(each.modalities)} | {each.samples} | {cells} |"
    if found.sets:
        yield from (
            "",
            "In percent; two figures: before and after calibration. given: share of predictions with labels",
        )
        yield f"at {_plain(found.asked)}; wrong: share of those whose most probable label is wrong."
    if found.faults:
        yield from ("", "| fault | severity | F1 | ECE | given |", "| --- | --- |" + " ---: |" * 3)
    for fault in found.faults:
        severity = f"{fault.severity:g} {_plain(fault.unit)}"
        cells = _percents(fault.f1, fault.calibration_error, fault.coverage)
        yield f"| {_plain(fault.fault)} | {severity} | {cells} |"


def _variants(name: str, records: Sequence[Record]) -> Iterator[str]:
    yield from ("", "## Precisions and engines", "")
    found = [each for each in records if isinstance(each, GraphRecord | EngineRecord | ProbabilitiesRecord)]
    if not found:
        yield f"FP32 alone. `mmx build-engine {_plain(name)} --fp16` and `mmx calibrate` add others."
        return
    yield from ("| | precision | against FP32 | made |", "| --- | --- | --- | --- |")
    for each in found:
        what = {"graph": "graph", "engine": "TensorRT engine", "probabilities": "calibrated probabilities"}[each.kind]
        if isinstance(each, EngineRecord):
            what = f"{each.flavour} {each.version} engine for {each.target}"
        made = _plain(each.created[:10])
        yield f"| {_plain(what)} | {_plain(each.precision)} | {_measured(each.verification)} | {made} |"


def _measured(record: Mapping[str, Any]) -> str:
    if "tries" in record:
        last = record["tries"][-1]["accuracy"]
        return f"largest logit error {last['error']:.1e}, {last['flips']} of {last['decisions']} labels flipped"
    if "max_error" in record:
        flips = f"{record['label_flips']} of {record['decisions']} labels flipped"
        return f"largest logit error {record['max_error']:.1e}, {flips}"
    return "-"


def _licences(manifest: Manifest) -> Iterator[str]:
    """Of every part of the bundle."""
    made, files = manifest.provenance, manifest.files
    licence = made.get("license") or f"{NOT_STATED}: ask who trained them (mmx export --license states it)"
    yield from ("", "## Licences", "", "| part | licence and origin |", "| --- | --- |")
    yield f"| weights ({_plain(made['checkpoint']['file'])}) | {_plain(licence)} |"
    yield f"| training data | {_plain(DATA.get(manifest.dataset, f'{manifest.dataset}: {NOT_STATED}'))} |"
    if any(name.startswith("tokenizer/") for name in files):
        yield "| tokenizer | as given to mmx export; ALBERT's own is Apache-2.0 (Google) |"
    if any(name == f"faces/{FACE_NETS[0]}.onnx" for name in files):
        yield (
            "| face nets | MTCNN (Zhang et al. 2016), from the package mtcnn-runtime (Apache-2.0); its weights are "
            "those of facenet-pytorch (MIT). MTCNN's first author forbids commercial use of his weights: ask him |"
        )
    for package, terms in made.get("licenses", {}).items():
        yield f"| {_plain(package)} | {_plain(terms)} |"
    yield "| mmx | MIT |"


def _evaluations(records: Sequence[Record]) -> Iterator[EvaluationRecord]:
    return (each for each in records if isinstance(each, EvaluationRecord))


def _list(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {line}" for line in lines)]


def _percents(*shares: float | None) -> str:
    return " | ".join("-" if share is None else f"{100 * share:.1f}" for share in shares)


def _change(before: float | None, after: float | None) -> str:
    return _percents(before) if after is None else f"{_percents(before)} -> {_percents(after)}"


def _parity(parity: Mapping[str, Any]) -> str:
    return (
        f"worst relative error {parity['worst']:.1e} against {parity['reference']} "
        f"over {len(parity['cases'])} batches, {parity['tolerance']:.0e} allowed"
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _plain(text: str) -> str:
    """Text that stays within its cell and its line, whatever it holds."""
    return "".join(c if c.isprintable() and c not in "|`<>[]" else " " for c in text)


def _quoted(text: str) -> str:
    return json.dumps(text)
