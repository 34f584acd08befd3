"""What ``mmx optimize`` chose for a bundle on this machine. ``auto`` follows it; without one it autotunes, in FP32.

The file in the user's cache folder can only choose among what mmx offers anyway.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError
from mmx.runtime.from_json import Within, from_plain
from mmx.runtime.kept import Kept, engine_versions
from mmx.runtime.machine import cpu_name, usable_cores
from mmx.runtime.precisions import precisions

CHOICES = Kept("optimize.json", schema_version=1)
Goal = Literal["latency", "throughput"]
GOALS: tuple[Goal, ...] = ("latency", "throughput")


@dataclass(frozen=True)
class Choice:
    """How to run a bundle.

    Attributes:
        backend, precision, streams, threads: as ``open_backend`` takes them. batch_size: utterances, at most.
        speedup: over ONNX Runtime in FP32, as it was shown. loss: what the precision was found to cost, in words.
        compared: what followed from (variants, limits, data): another value means that it can be chosen anew.
    """

    backend: str
    precision: str
    streams: Annotated[int, Within(1, 1024)]
    threads: Annotated[int, Within(1, 1024)]
    batch_size: Annotated[int, Within(1, 1024)]
    speedup: str
    loss: str
    compared: str

    def __str__(self) -> str:
        size = f", {self.streams} x {self.threads} threads" + (
            f", batches of {self.batch_size}" * (self.batch_size > 1)
        )
        return f"{self.backend} {self.precision}{size}: {self.speedup}, {self.loss}"


def recall(bundle: Bundle, goal: Goal) -> Choice | None:
    """What was chosen for this bundle, on this machine with these engines; None: nothing, or nothing usable."""
    try:
        choice: Choice = from_plain(Choice, CHOICES.get(_key(bundle, goal)).get("choice"), CHOICES.name)
    except BadDataError:
        return None
    return choice if choice.precision in precisions(bundle, choice.backend) else None


def remember(bundle: Bundle, goal: Goal, choice: Choice) -> None:
    """Keep a choice where it can be kept."""
    CHOICES.put(_key(bundle, goal), {"goal": goal, "cpu": cpu_name(), "choice": asdict(choice)})


def chosen_precision(bundle: Bundle, precision: str, goal: Goal) -> str:
    """``precision``, with ``auto`` resolved: what was chosen here, or fp32."""
    if precision != "auto":
        return precision
    choice = recall(bundle, goal)
    return choice.precision if choice else "fp32"


def chosen_batch_size(bundle: Bundle, goal: Goal, backend: str, precision: str, default: int) -> int:
    """The batch size of the choice, where a backend of that name and precision runs it; otherwise ``default``."""
    choice = recall(bundle, goal)
    return choice.batch_size if choice and (choice.backend, choice.precision) == (backend, precision) else default


def _key(bundle: Bundle, goal: Goal) -> str:
    setting = (cpu_name(), usable_cores(), engine_versions(), bundle.identity, goal)
    return hashlib.sha256(json.dumps(setting).encode()).hexdigest()[:16]
