"""From a system's name (or a checkpoint) to what the bench runs: the bundle that mmx makes of it, kept in the cache.

    python -m mmx.benchmarks.contenders.prepare FOLDER SYSTEM DATASET PRESET [CHECKPOINT]

exports one system into FOLDER; ``prepare_all`` starts several such processes side by side, since an export keeps one
core busy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mmx.benchmarks.cache import keyed_folder, weights_key
from mmx.benchmarks.contenders.upstream import SEED
from mmx.benchmarks.environment import usable_cores
from mmx.benchmarks.workload.vocabulary import train_vocabulary
from mmx.runtime.bundle import Bundle, sha256_of
from mmx.runtime.errors import MmxError

Say = Callable[[str], None]
AT_ONCE = 2  # an export takes 3 GB


@dataclass(frozen=True)
class Prepared:
    """One system, ready to be opened by contenders.

    Attributes:
        system: registry name. folder: where its bundle and the plain export are kept. bundle: what ``mmx export`` made.
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
    dataset: str,
    say: Say,
    preset: str = "full",
    checkpoints: Mapping[str, Path] | None = None,
    leave_out: Callable[[str], bool] = lambda system: False,
) -> list[Prepared]:
    """Every system's bundle, from the cache or exported now.

    Args:
        systems: in the order of their importance.
        leave_out: asked when a system's export would begin; those for which there is no time do not come back.

    Raises:
        MmxError: an export failed.
    """
    given = checkpoints or {}
    places = {name: _folder(name, dataset, preset, given.get(name)) for name in systems}
    missing = [name for name, place in places.items() if not (place / "system.mmx").is_dir()]
    if missing:
        root = next(iter(places.values())).parent
        say(f"exporting {', '.join(missing)}, up to a minute each, once; bundles are kept in {root}")

        def export(name: str) -> None:
            if not leave_out(name):
                _export_elsewhere(places[name], name, dataset, preset, given.get(name))
                say(f"exported {name}")

        with ThreadPoolExecutor(min(AT_ONCE, usable_cores())) as pool:
            list(pool.map(export, missing))
    return [
        Prepared(name, place, Bundle.open(place / "system.mmx", verify=False), preset, given.get(name))
        for name, place in places.items()
        if (place / "system.mmx").is_dir()
    ]


def export_into(folder: Path, system: str, dataset: str, preset: str, checkpoint: Path | None = None) -> None:
    """Export the checkpoint, or seeded weights, to ``folder/system.mmx``.

    Raises:
        MmxError: what ``export_bundle`` raises.
    """
    from mmx.export.exporter import export_bundle
    from mmx.models.checkpoint import save_checkpoint, seeded_module
    from mmx.models.registry import get_system

    bundle = folder / "system.mmx"
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None:
        export_bundle(checkpoint, bundle, system=system, dataset=dataset)
        return
    config = get_system(system).config(preset=preset)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / f"{system}.pt"
        save_checkpoint(file, seeded_module(system, config, SEED), system, config, dataset=dataset)
        export_bundle(file, bundle, tokenizer=train_vocabulary(Path(scratch)))


def _folder(system: str, dataset: str, preset: str, checkpoint: Path | None) -> Path:
    """Seeded weights serve every data set; a checkpoint's labels are the data set's."""
    weights = f"{sha256_of(checkpoint)} {dataset}" if checkpoint else f"seed {SEED}"
    return keyed_folder(f"{system}-{'checkpoint' if checkpoint else preset}", weights_key(system, preset, weights))


def _export_elsewhere(folder: Path, system: str, dataset: str, preset: str, checkpoint: Path | None) -> None:
    command = [sys.executable, "-m", "mmx.benchmarks.contenders.prepare", str(folder), system, dataset, preset]
    done = subprocess.run(
        [*command, str(checkpoint)] if checkpoint else command,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MmxError(f"exporting {system} failed: {last}", "mmx export on a checkpoint of it says more")


if __name__ == "__main__":
    _, place, name, dataset, preset, *rest = sys.argv
    export_into(Path(place), name, dataset, preset, Path(rest[0]) if rest else None)
