"""make demo: two ways through mmx, everything made here. Writes to demo-out/.

First a real clip through full-size, untrained `ours`, with PyTorch's answer beside the bundle's, and again without its
transcript, with the words that a speech recogniser hears beside the true ones. Then a narrow `ours` that is trained on
made-up data, exported, calibrated and scored, and labels clips it has not seen. The commands that it prints are the
ones it runs: they can be typed by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

import speaking
import trained
import untrained
from console import Console

OUT = Path("demo-out")


def main() -> int:
    """Run every step; 1 if PyTorch and a bundle disagree, words are misheard, or too few unseen clips are labelled with
    their emotion.
    """
    OUT.mkdir(exist_ok=True)
    console = Console(untrained.STEPS + speaking.STEPS + trained.STEPS + 1)
    same = untrained.run(console, OUT)
    understood = speaking.run(console, OUT)
    right = trained.run(console, OUT)
    console.step("done: bundles to try are demo-out/ckpt.mmx (untrained) and demo-out/trained/ckpt.mmx")
    return 0 if same and understood and right else 1


if __name__ == "__main__":
    sys.exit(main())
