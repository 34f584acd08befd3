"""What .ci/extras.py and the documentation's commands run on: a tiny untrained checkpoint, its bundle, a clip.

    python .ci/inputs.py FOLDER

Needs mmx[export]. Writes ckpt.pt, ckpt.mmx, tokenizer/ and talk.mp4 with its words in talk.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))

from clip import build_clip
from tokenizer import train_tokenizer

from mmx.export.exporter import export_bundle
from mmx.models.checkpoint import save_checkpoint, seeded_module
from mmx.models.registry import get_system


def main(folder: Path) -> None:
    """Write all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    build_clip(folder / "talk.mp4")
    train_tokenizer(folder / "tokenizer", pieces=1000)
    config = get_system("ours").presets["tiny"]
    save_checkpoint(folder / "ckpt.pt", seeded_module("ours", config), "ours", config, dataset="iemocap")
    export_bundle(folder / "ckpt.pt", folder / "ckpt.mmx", tokenizer=folder / "tokenizer")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python .ci/inputs.py FOLDER")
    main(Path(sys.argv[1]))
