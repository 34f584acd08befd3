"""A narrow `ours` that is trained here, on a made-up data set, and labels clips of people that it has never seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from console import Console

STEPS = 5
SAMPLES, EPOCHS, SEED = 900, 10, 0
CLIPS_SEED = 1  # other people, other words, other noise than in the data set
ENOUGH = 4  # of the six clips, none of them chosen: guesses get so many right in one of a hundred demos


def run(console: Console, out: Path) -> bool:
    """Whether enough of the unseen clips are labelled with the emotion that they were made to show."""
    data, clips, cache, trained = (out / name for name in ("synthetic", "unseen", "cache", "trained"))
    for folder in (data, clips, trained):
        shutil.rmtree(folder, ignore_errors=True)

    console.step("a made-up data set: drawn faces, synthesised voices, composed sentences")
    console.mmx("synth", data, "--samples", str(SAMPLES), "--seed", str(SEED))
    console.mmx("synth", clips, "--samples", "0", "--clips", "1", "--seed", str(CLIPS_SEED))

    console.step("train `ours` on it, in its tiny preset")
    # One thread: the same sums, and so the same weights, however many cores there are and however busy they are.
    options = ("--preset", "tiny", "--epochs", str(EPOCHS), "--seed", str(SEED), "--threads", "1", "--cache", cache)
    console.mmx("train", data, "--out", trained, *options)

    console.step("export, and an INT8 graph if it is as good and faster here")
    bundle = trained / "ckpt.mmx"
    console.mmx("export", trained / "ckpt.pt")
    console.mmx("calibrate", bundle, "--data", data, "--cache", cache, may_fail=True)

    console.step("its score on the test split, whose speakers were in no training, in every precision and engine")
    console.mmx("eval", bundle, "--data", data, "--cache", cache)

    console.step("clips that it has not seen, one of each emotion")
    files = sorted((clips / "clips").glob("*.mp4"))
    console.mmx("predict", bundle, files[0], "--transcript", files[0].with_suffix(".txt"))
    said = [word for file in files for word in ("--transcript", file.with_suffix(".txt"))]
    predicted = console.mmx("predict", bundle, *files, *said, "--json", show=False).splitlines()
    print(f"{'made to show':14}{'predicted':24}probability")
    right = 0
    for file, answer in zip(files, map(json.loads, predicted), strict=True):
        shown, chances, labels = file.stem.partition("_")[0], answer["probabilities"], answer["labels"]
        hit = shown in labels and shown == max(chances, key=chances.get)
        right += hit
        print(f"{shown:14}{', '.join(labels) or 'nothing':24}{chances[shown]:.1%}{'' if hit else '   WRONG'}")
    print(f"{right} of {len(files)} predicted right: the emotion is the most probable one (by chance: 1 of 6)")
    return right >= ENOUGH
