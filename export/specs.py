"""What the graph of each family of systems takes and gives: named axes, the parity cases, the tolerance.

The export, its checks, parity and the manifest all read it, and none of them knows a system by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mmx.models.late_fusion import LateFusion
from mmx.models.mult import Mult
from mmx.models.multimodal import MultimodalSystem
from mmx.runtime.manifest import FaceSpec, MelSpec, TensorSpec
from mmx.runtime.packing import MODALITY_INPUTS, pack
from mmx.runtime.types import Sample

Arrays = dict[str, NDArray]


@dataclass(frozen=True)
class ExportSpec:
    """One family of systems, as graphs.

    Attributes:
        inputs: in the order of the system's ``forward``; an axis is a number where fixed, a name where dynamic.
        outputs: in the order of what ``forward`` returns.
        cases: the batches that parity is checked on, by what is particular about them.
        example: the one of ``cases`` that the graph is traced with: no dynamic axis of it is 0 or 1.
        counted: the one of ``cases`` that multiply-accumulates are counted for.
        limits: the longest that a dynamic axis can be, where the system has such a limit.
        tolerance: the worst relative error that parity allows.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cases: Mapping[str, Arrays]
    example: str
    counted: str
    limits: Mapping[str, int]
    tolerance: float = 2e-5

    @property
    def dynamic_axes(self) -> frozenset[str]:
        """The names of the axes that must stay symbolic."""
        return frozenset(axis for tensor in self.inputs for axis in tensor.axes if isinstance(axis, str))


def spec_for(system: nn.Module) -> ExportSpec:
    """The spec of a system, from its class and its config.

    Raises:
        TypeError: a class that has none: a system was added to the registry and not here.
    """
    for kind, make in _FAMILIES.items():
        if isinstance(system, kind):
            return make(system)
    raise TypeError(f"no export spec for {type(system).__name__}")


def multimodal(system: MultimodalSystem) -> ExportSpec:
    """Up to three ragged towers: ours, V2EM, FE2E and the hybrids."""
    face, mel, config = FaceSpec(), MelSpec(), system.config
    inputs = [name for modality in system.modalities for name in MODALITY_INPUTS[modality]]
    axes: dict[str, tuple[str, tuple[int | str, ...]]] = {
        "input_ids": ("int64", ("batch", "tokens")),
        "attention_mask": ("int64", ("batch", "tokens")),
        "faces": ("float32", ("faces", 3, face.size, face.size)),
        "face_index": ("int64", ("batch", "face_slots")),
        "pieces": ("float32", ("pieces", mel.n_mels, mel.columns)),
        "piece_index": ("int64", ("batch", "piece_slots")),
    }
    outputs = ("logits", *(f"logits_{modality}" for modality in system.modalities))
    return ExportSpec(
        inputs=tuple(TensorSpec(name, *axes[name]) for name in inputs),
        outputs=tuple(TensorSpec(name, "float32", ("batch", config.labels)) for name in outputs),
        cases=_utterances(config.text.vocabulary, config.text.positions, inputs),
        example="batch of 2, padded text",
        counted="one utterance of 3.5 s",
        limits={"tokens": config.text.positions} if "text" in system.modalities else {},
    )


# tokens, faces and mel pieces of each utterance: one face each 0.5 s, one piece each 0.4 s, three words a second
_UTTERANCES: dict[str, Sequence[tuple[int, int, int]]] = {
    "one utterance of 3.5 s": [(13, 7, 9)],
    "batch of 2, padded text": [(9, 3, 2), (4, 2, 3)],
    "batch of 7, ragged": [(5, 2, 2), (21, 4, 2), (3, 1, 1), (2, 0, 1), (12, 3, 0), (7, 2, 1), (9, 0, 0)],
    "no face": [(8, 0, 2)],
    "no sound": [(8, 2, 0)],
    "one face, one piece": [(6, 1, 1)],
    "longest text": [(100, 2, 1)],
}


def _utterances(vocabulary: int, positions: int, inputs: Sequence[str]) -> dict[str, Arrays]:
    """Random utterances in the value ranges of real ones, packed as the runtime packs them.

    Every value is drawn by itself, unlike ``runtime.synthetic``'s, which are as smooth and as loud as the real thing:
    deep towers with random weights blow up float32's own rounding of those, and parity is about the graph.
    """
    rng = np.random.default_rng(20)

    def sample(tokens: int, faces: int, pieces: int) -> Sample:
        face, mel = FaceSpec(), MelSpec()
        power = 10 ** rng.uniform(-4, 2, (pieces, mel.n_mels, mel.columns))  # as loud and as quiet as speech is
        return Sample(
            token_ids=rng.integers(0, vocabulary, min(tokens, positions)),
            faces=rng.uniform(0, 255, (faces, 3, face.size, face.size)).astype(np.float32),
            pieces=power.astype(np.float32),
        )

    return {
        name: pack([sample(*shape) for shape in shapes], inputs=inputs).inputs for name, shapes in _UTTERANCES.items()
    }


def features(system: LateFusion | Mult) -> ExportSpec:
    """Three sequences of precomputed features with their lengths: LF-LSTM, LF-TRANS, MulT."""
    config = system.config
    sizes = {"text": config.text, "audio": config.audio, "visual": config.visual}
    sequences = [TensorSpec(name, "float32", ("batch", f"{name}_rows", size)) for name, size in sizes.items()]
    lengths = [TensorSpec(f"{name}_len", "int64", ("batch",)) for name in sizes]
    by_modality = ("logits_text", "logits_visual", "logits_audio") if isinstance(system, LateFusion) else ()
    return ExportSpec(
        inputs=(*sequences, *lengths),
        outputs=tuple(TensorSpec(name, "float32", ("batch", config.labels)) for name in ("logits", *by_modality)),
        cases={name: _sequences(sizes, rows, seed) for seed, (name, rows) in enumerate(_ROWS.items())},
        example="batch of 2, ragged",
        counted="one utterance",
        limits={},
    )


# rows of text, audio and visual features of each utterance
_ROWS: dict[str, Sequence[tuple[int, int, int]]] = {
    "one utterance": [(13, 30, 20)],
    "batch of 2, ragged": [(5, 4, 7), (3, 6, 2)],
    "batch of 7, ragged": [(9, 2, 3), (1, 8, 1), (4, 4, 9), (2, 1, 30), (20, 5, 5), (3, 3, 3), (1, 1, 1)],
    "one row each": [(1, 1, 1)],
    "no sound, no face": [(4, 0, 0), (2, 3, 0)],
}


def _sequences(sizes: Mapping[str, int], rows: Sequence[tuple[int, int, int]], seed: int) -> Arrays:
    """Random features. The padding is random as well: a graph that reads it fails parity."""
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for (name, size), lengths in zip(sizes.items(), zip(*rows, strict=True), strict=True):
        shape = (len(rows), max(1, *lengths), size)
        arrays[name] = rng.standard_normal(shape).astype(np.float32)
        arrays[f"{name}_len"] = np.array(lengths, np.int64)
    return arrays


_FAMILIES: dict[type[nn.Module], Callable[..., ExportSpec]] = {
    MultimodalSystem: multimodal,
    LateFusion: features,
    Mult: features,
}
