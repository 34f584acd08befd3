"""make demo: a clip, a checkpoint, a bundle, emotions, and the PyTorch answer beside them. Everything is made here.

Writes to demo-out/. The commands it prints are the ones it runs: they can be typed by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import torch
from clip import build_clip
from tokenizer import train_tokenizer

from mmx.models.checkpoint import load_checkpoint, save_checkpoint, seeded_module
from mmx.models.registry import get_system
from mmx.runtime.bundle import Bundle
from mmx.runtime.packing import pack
from mmx.runtime.preprocess import Preprocessor

OUT = Path("demo-out")
SEED = 7
TOLERANCE = 2e-5  # of the largest logit: what mmx export allows


def step(title: str) -> None:
    """Announce a step, with the time since the start."""
    print(f"\n== {title}  [{time.perf_counter() - START:.0f} s]", flush=True)


def mmx(*arguments: str) -> str:
    """Run the mmx command of this environment, showing it; returns what it printed."""
    print(f"$ mmx {' '.join(arguments)}", flush=True)
    command = [str(Path(sysconfig.get_path("scripts")) / "mmx"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="", flush=True)
    return done.stdout


def pytorch_logits(checkpoint: Path, bundle: Path, clip: Path, text: str) -> dict[str, float]:
    """The unfolded PyTorch system's fused logits for the clip's faces, mel pieces and token ids."""
    loaded = load_checkpoint(checkpoint)
    opened = Bundle.open(bundle)
    (segment,) = Preprocessor(opened).segments(clip, text=text)
    inputs = pack([segment.sample], opened.manifest.preprocessing.text).inputs
    with torch.no_grad():
        logits, *_ = loaded.module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return dict(zip(loaded.labels, logits[0].tolist(), strict=True))


def main() -> int:
    """Run every step; 1 if PyTorch and the bundle disagree."""
    OUT.mkdir(exist_ok=True)
    step("1/5  a talking-face clip with real speech, from media that packages ship")
    clip, text = build_clip(OUT / "clip.mp4")
    print(f"{clip} ({clip.stat().st_size:,} bytes): {text}")

    step("2/5  a checkpoint of `ours`: full size, seeded weights. It is UNTRAINED: its emotions mean nothing")
    config = get_system("ours").config()
    checkpoint = OUT / "ckpt.pt"
    save_checkpoint(checkpoint, seeded_module("ours", config, SEED), "ours", config, dataset="iemocap")
    train_tokenizer(OUT)
    print(f"{checkpoint} ({checkpoint.stat().st_size:,} bytes), with a small tokenizer beside it")

    step("3/5  export: fold, ONNX, proof of parity, bundle")
    mmx("export", str(checkpoint))

    step("4/5  predict, from the bundle alone")
    bundle = OUT / "ckpt.mmx"
    mmx("predict", str(bundle), str(clip), "--text", text)
    answer = json.loads(mmx("predict", str(bundle), str(clip), "--text", text, "--json"))

    step("5/5  the same clip through the PyTorch checkpoint")
    wanted = pytorch_logits(checkpoint, bundle, clip, text)
    print(f"{'label':8}{'PyTorch':>12}{'mmx':>12}")
    for label, logit in wanted.items():
        print(f"{label:8}{logit:12.6f}{answer['logits'][label]:12.6f}")
    worst = max(abs(answer["logits"][label] - logit) for label, logit in wanted.items())
    relative = worst / max(map(abs, wanted.values()))
    same = relative <= TOLERANCE
    print(f"worst difference {relative:.1e} of the largest logit: {'the same answer' if same else 'NOT THE SAME'}")
    step("done: a bundle to try is in demo-out/ckpt.mmx")
    return 0 if same else 1


if __name__ == "__main__":
    START = time.perf_counter()
    sys.exit(main())
