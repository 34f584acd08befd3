"""A real clip through full-size, untrained `ours`: what the bundle says of it, and that PyTorch says the same."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from clip import build_clip
from console import Console
from tokenizer import train_tokenizer

from mmx.models.checkpoint import load_checkpoint, save_checkpoint, seeded_module
from mmx.models.registry import get_system
from mmx.runtime.bundle import Bundle
from mmx.runtime.packing import inputs_for
from mmx.runtime.preprocess import Preprocessor

STEPS = 5
SEED = 7
TOLERANCE = 2e-5  # of the largest logit: what mmx export allows


def pytorch_logits(checkpoint: Path, bundle: Path, clip: Path, text: str) -> dict[str, float]:
    """The unfolded PyTorch system's fused logits for the clip's faces, mel pieces and token ids."""
    loaded = load_checkpoint(checkpoint)
    opened = Bundle.open(bundle)
    (segment,) = Preprocessor(opened).segments(clip, text=text)
    inputs = inputs_for(opened.manifest, [segment.sample])
    with torch.no_grad():
        logits, *_ = loaded.module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return dict(zip(loaded.labels, logits[0].tolist(), strict=True))


def run(console: Console, out: Path) -> bool:
    """Whether PyTorch and the bundle agree."""
    console.step("a talking-face clip with real speech, from media that packages ship")
    clip, text = build_clip(out / "clip.mp4")
    print(f"{clip} ({clip.stat().st_size:,} bytes): {text}")

    console.step("a checkpoint of `ours`: full size, seeded weights. It is UNTRAINED: its emotions mean nothing")
    config = get_system("ours").config()
    checkpoint = out / "ckpt.pt"
    save_checkpoint(checkpoint, seeded_module("ours", config, SEED), "ours", config, dataset="iemocap")
    train_tokenizer(out)
    print(f"{checkpoint} ({checkpoint.stat().st_size:,} bytes), with a small tokenizer beside it")

    console.step("export: fold, ONNX, parity check, bundle")
    console.mmx("export", checkpoint)

    console.step("predict, from the bundle alone")
    bundle = out / "ckpt.mmx"
    console.mmx("predict", bundle, clip, "--text", text)
    answer = json.loads(console.mmx("predict", bundle, clip, "--text", text, "--json"))

    console.step("the same clip through the PyTorch checkpoint")
    wanted = pytorch_logits(checkpoint, bundle, clip, text)
    print(f"{'label':8}{'PyTorch':>12}{'mmx':>12}")
    for label, logit in wanted.items():
        print(f"{label:8}{logit:12.6f}{answer['logits'][label]:12.6f}")
    worst = max(abs(answer["logits"][label] - logit) for label, logit in wanted.items())
    relative = worst / max(map(abs, wanted.values()))
    same = relative <= TOLERANCE
    print(f"worst difference {relative:.1e} of the largest logit: {'the same answer' if same else 'NOT THE SAME'}")
    return same
