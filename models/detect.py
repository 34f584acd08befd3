"""Which system a state dict belongs to, and what it is built from, from names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from mmx.models.config import (
    FORMS,
    MAX_DEPTH,
    MAX_SIZE,
    PARTS,
    AlbertConfig,
    ConvTrunkConfig,
    EncoderConfig,
    FocalNetConfig,
    Form,
    LstmConfig,
    MultConfig,
    MultimodalConfig,
    TransConfig,
)
from mmx.models.registry import System
from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import FaceSpec, MelSpec

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, ...]]

_VISUAL = {r"V\.\d+\.rbr_": "repvgg", r"V\.\d+\.block\.": "rfam", r"V\.\d+\.conv1\.": "vgg"}
_AUDIO = {r"A\.0\.levels\.": "nest", r"A\.0\.layers\.": "focalnet", r"A\.\d+\.conv1\.": "vgg"}
_TRUNKS = {
    "ours": ("rfam", "focalnet"),
    "v2em": ("repvgg", "nest"),
    "fe2e": ("vgg", "vgg"),
    "v2em-visual+focal": ("repvgg", "focalnet"),
    "rfam+nest": ("rfam", "nest"),
}
_UNTOLD = (
    "heads",
    "future_mask",
    "text.heads",
    "text.layers",
    "encoder.heads",
    "audio.heads",
    "visual.simam",
)
_FEATURES = {"rnns.": "lf-lstm", "transformers.": "lf-trans", "trans_l_with_a.": "mult"}


def detect(names: Mapping[str, Any]) -> str | None:
    """The registry's name of the system these tensors belong to; None where nothing is recognised.

    With one trunk missing the other one decides, so that what is missing can be listed.
    """

    def kind(patterns: dict[str, str]) -> str | None:
        return next((k for p, k in patterns.items() if any(re.match(p, name) for name in names)), None)

    for start, name in _FEATURES.items():
        if any(tensor.startswith(start) for tensor in names):
            return name
    found = (kind(_VISUAL), kind(_AUDIO))
    for fits in (lambda t: t == found, lambda t: found[0] is None and t[1] == found[1], lambda t: t[0] == found[0]):
        for name, trunks in _TRUNKS.items():
            if found != (None, None) and fits(trunks):
                return name
    if any(name.startswith("T.albert.") for name in names):  # of text alone, which all of them have alike
        return next(iter(_TRUNKS))
    return None


def forms_of(config: Any) -> list[Any]:
    """The config itself, then with its visual trunk in each other form: a trainer may fold the weights it saves."""
    if not isinstance(config, MultimodalConfig):
        return [config]
    visual = config.visual
    others = [form for form in FORMS[visual.block] if form != visual.form]
    return [config, *(replace(config, visual=replace(visual, form=form)) for form in others)]


def candidates(system: System, shapes: Shapes) -> Iterator[Any]:
    """Configs that may belong to a bare state dict, most likely first: the presets, then what the shapes say."""
    for preset in system.presets.values():
        labels = _labels(preset.labels, shapes)
        yield preset if labels == preset.labels else replace(preset, labels=labels)
    for preset in system.presets.values():
        yield infer(preset, shapes) if isinstance(preset, MultimodalConfig) else _features(preset, shapes)


def missing_modalities(system: System, shapes: Shapes) -> list[str]:
    """The modalities of a three-tower system of which there is no tensor at all; none where there is nothing of any."""
    if system.inputs != "media":
        return []
    present = {name.partition(".")[0] for name in shapes}
    missing = [name for name in system.modalities if not present & set(PARTS[name])]
    return missing if len(missing) < len(system.modalities) else []


def untold(config: Mapping[str, Any], given: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """What of a config leaves no trace in the shapes, with its value, such as ``text.heads``: 12.

    Args:
        config: as plain data. given: configs (they may be partial) that somebody wrote down: not assumed.
        names: of the tensors; nothing is assumed of a modality that has none.
    """
    present = {name.partition(".")[0] for name in names}
    parts = {"text": "T", "visual": "V", "audio": "A"}
    found = {}
    for path in _UNTOLD:
        part, _, leaf = path.rpartition(".")
        holder = config.get(part) if part else config
        if not isinstance(holder, Mapping) or leaf not in holder or (part in parts and parts[part] not in present):
            continue
        idle = leaf == "simam" and holder["block"] != "rfam"
        if not idle and not any(leaf in (each.get(part, {}) if part else each) for each in given):
            found[path] = holder[leaf]
    return found


def _features(base: Any, shapes: Shapes) -> Any:
    """As ``infer``, for the systems on features."""

    def read() -> Any:
        if isinstance(base, MultConfig):
            width, text, _ = shapes["proj_l.weight"]
            audio, visual = (shapes[f"proj_{key}.weight"][1] for key in "av")
            layers = _depth(shapes, r"trans_l_mem\.layers\.(\d+)\.")
            return replace(base, text=text, audio=audio, visual=visual, width=width, layers=layers)
        names = "transformers.{}.cls_emb.weight" if isinstance(base, TransConfig) else "rnns.{}.weight_ih_l0"
        sizes = {key: shapes[names.format(key[0])][1] for key in ("text", "audio", "visual")}
        if isinstance(base, LstmConfig):
            return replace(base, **sizes)
        layers = _depth(shapes, r"transformers\.t\.encoder\.layers\.(\d+)\.")
        feed_forward = shapes["transformers.t.encoder.layers.0.linear1.weight"][0]
        return replace(base, **sizes, layers=layers, feed_forward=feed_forward)

    return replace(_or(base, read), labels=_labels(base.labels, shapes))


def infer(base: MultimodalConfig, shapes: Shapes) -> MultimodalConfig:
    """``base`` with every size that the shapes give. Head counts and SimAM's variant leave no trace and stay."""
    audio = base.audio
    if isinstance(audio, FocalNetConfig):
        focal = audio
        audio = _or(focal, lambda: _focalnet(focal, shapes))
    return replace(
        base,
        visual=_or(base.visual, lambda: _conv_trunk(base.visual, shapes)),
        audio=audio,
        text=_or(base.text, lambda: _albert(base.text, shapes)),
        encoder=_or(base.encoder, lambda: _encoder(base.encoder, shapes)),
        labels=_labels(base.labels, shapes),
    )


def _labels(default: int, shapes: Shapes) -> int:
    heads = (
        shapes[name]
        for name in ("t_out.weight", "v_out.weight", "a_out.weight", "affines.t.2.weight", "out_layer.weight")
        if name in shapes
    )
    rows = (*next(heads, ()), 0)[0]
    return rows if 0 < rows < MAX_SIZE else default


def _or(fallback: T, read: Callable[[], T]) -> T:
    """What ``read`` finds; where a tensor it needs is missing or makes no sense, the fallback."""
    try:
        return read()
    except (KeyError, IndexError, ValueError, ZeroDivisionError, BadDataError):
        return fallback


def _depth(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern's group takes among the names."""
    return max(int(m[1][:6]) for m in map(re.compile(pattern).match, shapes) if m) + 1


def _conv_trunk(base: ConvTrunkConfig, shapes: Shapes) -> ConvTrunkConfig:
    conv2 = {"rfam": r"V\.(\d+)\.block\.conv2\.weight$", "vgg": r"V\.(\d+)\.conv2\.weight$"}
    pattern = conv2.get(base.block, r"V\.(\d+)\.(?:rbr_dense\.conv|rbr_reparam)\.weight$")
    blocks = {int(m[1]): shapes[m[0]][0] for m in map(re.compile(pattern).match, shapes) if m}
    if max(blocks) > MAX_DEPTH:
        raise ValueError("not a plan")
    plan = [blocks.get(i, 0) for i in range(4, max(blocks) + 1)]
    hidden, features = shapes["v_flatten.0.weight"]
    side = round((features / blocks[max(blocks)]) ** 0.5)
    trailing = (FaceSpec().size // side).bit_length() - 2 - plan.count(0)
    first = f"V.{min(blocks)}.block."
    form: Form = base.form
    if base.block == "rfam":
        form = "reserved" if f"{first}prelu.weight" in shapes else "residual"
        form = "deployed" if f"{first}conv1.bias" in shapes else form
    elif base.block == "repvgg":
        form = "deployed" if f"V.{min(blocks)}.rbr_reparam.weight" in shapes else "training"
    return replace(
        base,
        stem=shapes["V.0.weight"][0],
        stem_kernel=shapes["V.0.weight"][2],
        stem_bias="V.0.bias" in shapes,
        plan=tuple(plan) + (0,) * trailing,
        form=form,
        hidden=hidden,
    )


def _focalnet(base: FocalNetConfig, shapes: Shapes) -> FocalNetConfig:
    width, channels, patch, _ = shapes["A.0.patch_embed.proj.weight"]
    first = "A.0.layers.0.blocks.0."
    stages = _depth(shapes, r"A\.0\.layers\.(\d+)\.")
    return replace(
        base,
        channels=channels,
        side=MelSpec().n_mels // channels,
        patch=patch,
        width=width,
        depths=tuple(_depth(shapes, rf"A\.0\.layers\.{i}\.blocks\.(\d+)\.") for i in range(stages)),
        focal_levels=_depth(shapes, r"A\.0\.layers\.0\.blocks\.0\.modulation\.focal_layers\.(\d+)\."),
        focal_window=shapes[f"{first}modulation.focal_layers.0.0.weight"][2],
        mlp_ratio=shapes[f"{first}mlp.fc1.weight"][0] // width,
        classes=shapes["A.0.head.weight"][0],
    )


def _albert(base: AlbertConfig, shapes: Shapes) -> AlbertConfig:
    root = "T.albert.embeddings."
    vocabulary, embedding = shapes[f"{root}word_embeddings.weight"]
    feed_forward, width = shapes["T.albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"]
    return replace(
        base,
        vocabulary=vocabulary,
        positions=shapes[f"{root}position_embeddings.weight"][0],
        embedding=embedding,
        width=width,
        feed_forward=feed_forward,
    )


def _encoder(base: EncoderConfig, shapes: Shapes) -> EncoderConfig:
    tower = "v" if "v_transformer.encoder.layers.0.linear1.weight" in shapes else "a"
    feed_forward, width = shapes[f"{tower}_transformer.encoder.layers.0.linear1.weight"]
    layers = _depth(shapes, rf"{tower}_transformer\.encoder\.layers\.(\d+)\.")
    return replace(base, width=width, feed_forward=feed_forward, layers=layers)
