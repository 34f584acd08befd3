"""From a system's name (or a checkpoint) to what the bench runs: mmx's bundle of it, and the peers' graphs.

    python -m mmx.benchmarks.contenders.prepare FOLDER SYSTEM DATASET PRESET PART,PART [CHECKPOINT]

makes parts of one system in FOLDER; ``prepare_all`` starts such processes side by side, since each keeps one core busy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mmx.benchmarks.cache import keyed_folder, weights_key
from mmx.benchmarks.contenders.upstream import SEED
from mmx.benchmarks.workload.vocabulary import train_vocabulary
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, ParityError, UsageError
from mmx.runtime.files import sha256_of
from mmx.runtime.machine import usable_cores
from mmx.runtime.scratch import Scratch

Say = Callable[[str], None]
AT_ONCE = 2  # an export takes 3 GB
BUNDLE = "system.mmx"
# What bundles and peers' graphs follow from.
CODE = ("mmx.models", "mmx.export", "mmx.export.folding", "mmx.runtime", "mmx.benchmarks.contenders")
_KINDS = {kind.exit_code: kind for kind in (UsageError, ParityError, EnvironmentMissing, BadDataError)}


@dataclass(frozen=True)
class Prepared:
    """One system, ready to be opened by contenders.

    Attributes:
        system: registry name. folder: where its bundle and the peers' graphs are kept.
        bundle: what ``mmx export`` made, or the one that was given.
        preset, checkpoint: what ``upstream_module`` takes to make the same weights; without a checkpoint they are
            seeded noise.
    """

    system: str
    folder: Path
    bundle: Bundle
    preset: str
    checkpoint: Path | None


def prepare_all(
    systems: Sequence[str],
    dataset: str | None,
    say: Say,
    preset: str = "full",
    checkpoints: Mapping[str, Path] | None = None,
    leave_out: Callable[[str], bool] = lambda system: False,
    graphs: Mapping[str, Sequence[str]] | None = None,
    bundles: Mapping[str, Path] | None = None,
) -> list[Prepared]:
    """Every system's bundle and graphs, from the cache or made now.

    Args:
        systems: in the order of their importance. dataset: whose labels a checkpoint has; None: those it says.
        leave_out: asked when a system's export would begin; those for which there is no time do not come back.
        graphs: the graphs of peers (``peers.GRAPHS``) that a system needs beside its bundle.
        bundles: bundles that need not be exported, by system.

    Raises:
        MmxError: an export failed, or a given bundle is none.
    """
    given, asked, ready = checkpoints or {}, graphs or {}, bundles or {}
    places = {name: _folder(name, dataset, preset, given.get(name)) for name in systems}
    wanted = {name: [*([] if name in ready else [BUNDLE]), *asked.get(name, ())] for name in systems}
    missing = {name: [part for part in wanted[name] if not (place / part).exists()] for name, place in places.items()}
    missing = {name: parts for name, parts in missing.items() if parts}
    if missing:
        root = next(iter(places.values())).parent
        say(f"exporting {', '.join(missing)}, up to a minute each, once; kept in {root}")

        def make(name: str) -> None:
            if not leave_out(name):
                _make_elsewhere(places[name], name, dataset, preset, missing[name], given.get(name))
                say(f"exported {name}")

        with ThreadPoolExecutor(min(AT_ONCE, usable_cores())) as pool:
            list(pool.map(make, missing))
    return [
        Prepared(name, place, Bundle.open(ready.get(name, place / BUNDLE), verify=False), preset, given.get(name))
        for name, place in places.items()
        if name in ready or (place / BUNDLE).is_dir()
    ]


def make_parts(
    folder: Path,
    system: str,
    dataset: str | None,
    preset: str,
    parts: Sequence[str],
    checkpoint: Path | None = None,
) -> None:
    """Make the bundle (``BUNDLE``) and graphs of peers in ``folder``, from the checkpoint or from seeded weights.

    Raises:
        MmxError: what ``export_bundle`` raises.
    """
    from mmx.benchmarks.contenders.peers import GRAPHS
    from mmx.benchmarks.contenders.upstream import upstream_form
    from mmx.export.exporter import export_bundle
    from mmx.models.checkpoint import load_checkpoint, save_checkpoint, seeded_module
    from mmx.models.registry import get_system

    folder.mkdir(parents=True, exist_ok=True)
    config = get_system(system).config(preset=preset)
    if checkpoint is not None:
        module = load_checkpoint(checkpoint, system=system).module
    else:
        module = seeded_module(system, config, SEED)
    if BUNDLE in parts and checkpoint is not None:
        export_bundle(checkpoint, folder / BUNDLE, system=system, dataset=dataset)
    elif BUNDLE in parts:
        with Scratch("bench", folder) as scratch:  # where there is room for bundles
            file = scratch.path / f"{system}.pt"
            save_checkpoint(file, module, system, config, dataset=dataset)
            reads_text = get_system(system).inputs == "media"
            tokenizer = train_vocabulary(scratch.path) if reads_text else None
            export_bundle(file, folder / BUNDLE, tokenizer=tokenizer)
    if graphs := [part for part in parts if part != BUNDLE]:
        upstream = upstream_form(module)
        for name in graphs:
            with suppress(EnvironmentMissing):  # who opens this peer tries again and says why it is not there
                GRAPHS[name](upstream, folder / name)


def _folder(system: str, dataset: str | None, preset: str, checkpoint: Path | None) -> Path:
    """Seeded weights serve every data set; a checkpoint's labels are the data set's."""
    weights = f"{sha256_of(checkpoint)} {dataset}" if checkpoint else f"seed {SEED}"
    key = weights_key(system, preset, weights, code=CODE)
    return keyed_folder(f"{system}-{'checkpoint' if checkpoint else preset}", key)


def _make_elsewhere(
    folder: Path, system: str, dataset: str | None, preset: str, parts: Sequence[str], checkpoint: Path | None
) -> None:
    command = [sys.executable, "-m", "mmx.benchmarks.contenders.prepare", str(folder), system, dataset or "", preset]
    done = subprocess.run(
        [*command, ",".join(parts), *([str(checkpoint)] if checkpoint else [])],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if kind := _KINDS.get(done.returncode):
        raise kind(**json.loads(done.stdout.splitlines()[-1]))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MmxError(f"exporting {system} failed: {last}", "mmx export on a checkpoint of it says more")


if __name__ == "__main__":
    _, place, name, dataset, preset, parts, *rest = sys.argv
    try:
        make_parts(Path(place), name, dataset or None, preset, parts.split(","), Path(rest[0]) if rest else None)
    except MmxError as e:
        print(json.dumps({"message": e.message, "hint": e.hint}))
        sys.exit(e.exit_code)
