"""The options of a run, and their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmx.benchmarks.paper import ABLATION, DATASETS
from mmx.benchmarks.results import PEERS
from mmx.models.registry import get_system
from mmx.runtime.backends import MODULES, NAMES
from mmx.runtime.errors import UsageError
from mmx.runtime.machine import usable_cores

if TYPE_CHECKING:
    from mmx.datasets.dataset import DataSet

SCENARIOS = ("single-stream", "offline", "server", "paper")
PIPELINE_SCENARIOS = SCENARIOS[:2]
SCOPES = ("model", "pipeline")
# torch.compile takes minutes for each large system, so it runs when it is asked for.
DEFAULT_PEERS = tuple(peer for peer in PEERS if peer != "compile")
DEFAULT_SYSTEMS = ("lf-lstm", "lf-trans", "mult", "fe2e", *ABLATION)
FULLY_COMPARED = ("v2em", "ours")  # with every peer; the other systems with eager alone
# What is open at once and takes turns, beside the baseline; every contender holds its own copy of the weights.
ROUNDS = (("v2em", "rfam+nest"), ("ours", "v2em-visual+focal", "fe2e", "lf-lstm", "lf-trans", "mult"))


@dataclass(frozen=True)
class Options:
    """A run of ``mmx bench``.

    Attributes:
        dataset: iemocap | mosei, or what ``data`` is called where it is neither.
        systems: registry names. backends, peers: what runs them.
        scenarios: of ``SCENARIOS``. scope: model (tensors to logits) | pipeline (video files to labels).
        samples: utterances of the set, None: as many as fit in ``minutes``. passes: timed runs of each.
        threads: CPU threads, one measurement for each.
        minutes: what the run may take, roughly; 0: no limit.
        data: a data set on disk; None: synthetic. checkpoints: trained weights by system; others are seeded.
        bundles: bundles that were made from those checkpoints, by system; the others are exported.
        clip: a video with a face and speech, for the pipeline's clips. bound_ms: of the server scenario.
        preset: config of systems with seeded weights.
    """

    dataset: str
    systems: tuple[str, ...] = DEFAULT_SYSTEMS
    backends: tuple[str, ...] = tuple(MODULES)
    peers: tuple[str, ...] = DEFAULT_PEERS
    scenarios: tuple[str, ...] = SCENARIOS
    scope: str = "model"
    samples: int | None = None
    passes: int = 1
    threads: tuple[int, ...] = (1,)
    minutes: float = 8.5
    data: DataSet | None = None
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    bundles: Mapping[str, Path] = field(default_factory=dict)
    clip: Path | None = None
    bound_ms: float = 500.0
    preset: str = "full"

    @property
    def published(self) -> str | None:
        """Which of the paper's data sets it is; None for one's own, whose labels a checkpoint says."""
        return self.dataset if self.dataset in DATASETS else None

    @property
    def essential(self) -> tuple[str, ...]:
        """The systems that are measured first, and also when time runs short."""
        return tuple(name for name in FULLY_COMPARED if name in self.systems) or self.systems

    @property
    def extras(self) -> tuple[str, ...]:
        """What follows the interleaving, by its name in ``measure.clock``."""
        if self.scope == "pipeline":
            return ("side by side",) if "offline" in self.scenarios else ()
        asked = tuple(name for name in SCENARIOS[1:] if name in self.scenarios)
        return (*asked, "stages", *(("residual",) if "ours" in self.systems and self.preset == "full" else ()))

    @property
    def rounds(self) -> tuple[tuple[str, ...], ...]:
        """``ROUNDS`` with the systems that were asked for."""
        if self.scope == "pipeline":  # each contender is a whole program: one system at a time
            return tuple((name,) for together in ROUNDS for name in together if name in self.systems)
        asked = (tuple(name for name in together if name in self.systems) for together in ROUNDS)
        return tuple(together for together in asked if together)

    @classmethod
    def systems_for(cls, scope: str, data: DataSet | None) -> tuple[str, ...]:
        """The systems of a run that names none: from video those compared in full, from a data set those on media."""
        if scope == "pipeline":
            return FULLY_COMPARED
        return DEFAULT_SYSTEMS if data is None else tuple(n for n in DEFAULT_SYSTEMS if get_system(n).inputs == "media")

    def check(self) -> None:
        """Raise UsageError for what does not exist or does not fit together."""
        if self.data is None:
            _known("data set", (self.dataset,), DATASETS)
        _known("backend", self.backends, NAMES)
        _known("peer", self.peers, PEERS)
        _known("scenario", self.scenarios, SCENARIOS)
        _known("scope", (self.scope,), SCOPES)
        for name in self.systems:
            if get_system(name).inputs != "media" and (self.data is not None or self.scope == "pipeline"):
                raise UsageError(
                    f"{name} takes features that were extracted beforehand, by tools that mmx does not have",
                    "leave it out of --systems; on synthetic features, --scope model runs it",
                )
            if name not in self.checkpoints:
                get_system(name).config(preset=self.preset)
        cores = usable_cores()
        if (self.samples is not None and self.samples < 1) or self.passes < 1:
            raise UsageError("--samples and --passes take a number from 1 up")
        if not self.threads or not all(1 <= n <= 4 * cores for n in self.threads):
            raise UsageError(f"--threads {','.join(map(str, self.threads))} does not fit {cores} cores")
        if stray := sorted(set(self.checkpoints) - set(self.systems)):
            raise UsageError(f"--checkpoint is given for {stray[0]}, which is not among the systems", "see --systems")
        if lone := sorted(set(self.bundles) - set(self.checkpoints)):
            raise UsageError(
                f"--bundle {lone[0]} comes without the checkpoint it was made from, which its answers are held against",
                f"add --checkpoint {lone[0]}=FILE",
            )
        if self.scope == "pipeline" and (self.data is not None or not set(self.scenarios) <= set(PIPELINE_SCENARIOS)):
            raise UsageError(
                f"--scope pipeline runs video files ({' and '.join(PIPELINE_SCENARIOS)}), and no --data",
                "leave --data and --scenarios out",
            )
        if "single-stream" not in self.scenarios:
            raise UsageError("the other scenarios need single-stream", "add --scenarios single-stream")


def _known(what: str, asked: Sequence[str], known: Sequence[str]) -> None:
    for name in asked:
        if name not in known:
            raise UsageError(f"there is no {what} {name!r}", f"choose from {', '.join(known)}")
