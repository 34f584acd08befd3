"""Inputs that say nothing, through the whole pipeline: how many get labels all the same, and what good clips lose.

    python studies/says_nothing.py BUNDLE --data DIR [--count 500] [--json OUT]

BUNDLE's probabilities must be calibrated (mmx calibrate --probabilities). What says nothing is a picture (black, even,
bars, checks, noise, clouds, gradients, drawings without a face, text) with a sound (none, silence, noises, tones, hum,
chords, clicks, wind), drawn from a seed. Good clips are the test split of DIR. Both go in as arrays, and come out of
``Predictor`` with its defaults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from mmx.datasets.dataset import find_dataset
from mmx.datasets.reading import read_media
from mmx.runtime.bundle import Bundle
from mmx.runtime.files import write_text
from mmx.runtime.media.arrays import MediaArrays
from mmx.runtime.prediction import Prediction
from mmx.runtime.predictor import Predictor
from mmx.runtime.to_json import to_json

Random = np.random.Generator
Picture = NDArray[np.uint8]
Sound = NDArray[np.float32]
SIZE, RATE, STEP_S = 224, 16_000, 0.5


def shapes(random: Random) -> Picture:
    """A drawing of boxes, discs and lines."""
    picture = np.full((SIZE, SIZE, 3), random.integers(0, 256, 3), np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE]
    for _ in range(random.integers(3, 12)):
        (cx, cy), size = random.integers(0, SIZE, 2), random.integers(8, 90)
        box = (abs(x - cx) < size) & (abs(y - cy) < size * random.uniform(0.2, 1))
        disc = (x - cx) ** 2 + (y - cy) ** 2 < size**2
        line = abs((x - cx) * random.normal() + (y - cy) * random.normal()) < 3
        picture[(box, disc, line)[random.integers(3)]] = random.integers(0, 256, 3)
    return picture


def clouds(random: Random) -> Picture:
    """Noise whose amplitude falls with its frequency, as in photographs."""
    fine = np.fft.fftfreq(SIZE)
    falling = np.maximum(np.hypot(fine[:, None], fine[None]), 1 / SIZE) ** -random.uniform(0.8, 1.6)
    made = np.fft.ifft2(np.fft.fft2(random.normal(size=(3, SIZE, SIZE))) * falling).real
    made = (made - made.mean()) / made.std() * 50 + 128
    return np.clip(made, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def text(random: Random) -> Picture:
    """Rows of small dark blocks on white, as a page of text looks."""
    picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
    for row in range(10, SIZE - 10, 14):
        ink = random.random(SIZE // 4) < 0.6
        picture[row : row + 7] = np.where(np.repeat(ink, 4)[None, :, None], 30, 255)
    return picture


def _bars(random: Random) -> Picture:
    return np.repeat(np.repeat(random.integers(0, 256, (1, 8, 3)), SIZE, 0), SIZE // 8, 1).astype(np.uint8)


def _checks(random: Random) -> Picture:
    cell = int(random.choice([8, 16, 32, 56]))
    pattern = np.indices((SIZE // cell, SIZE // cell)).sum(axis=0) % 2
    return np.kron(pattern, np.ones((cell, cell)))[..., None].repeat(3, 2).astype(np.uint8) * 255


def _gradient(random: Random) -> Picture:
    ramp = np.linspace(0, 1, SIZE)[None, :, None] * random.integers(0, 256, 3)
    return np.repeat(ramp, SIZE, 0).astype(np.uint8)


PICTURES: dict[str, Callable[[Random], Picture] | None] = {
    "no picture": None,
    "black": lambda random: np.zeros((SIZE, SIZE, 3), np.uint8),
    "even": lambda random: np.full((SIZE, SIZE, 3), random.integers(0, 256, 3), np.uint8),
    "bars": _bars,
    "checks": _checks,
    "noise": lambda random: random.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8),
    "clouds": clouds,
    "gradient": _gradient,
    "drawing": shapes,
    "text": text,
}


def coloured(power: float, random: Random, samples: int) -> NDArray[np.float64]:
    """Noise whose power falls with frequency to ``power``, at a level from -40 to -15 dBFS."""
    falling = np.arange(1, samples // 2 + 2) ** (-power / 2)
    made = np.fft.irfft(np.fft.rfft(random.normal(size=samples)) * falling, samples)
    return made / made.std() * 10 ** random.uniform(-2, -0.75)


def tones(hertz: NDArray, random: Random, samples: int) -> NDArray[np.float64]:
    """Steady tones together."""
    times = np.arange(samples) / RATE
    return np.mean([np.sin(2 * np.pi * f * times) for f in hertz], axis=0) * random.uniform(0.05, 0.5)


SOUNDS: dict[str, Callable[[Random, int], NDArray] | None] = {
    "no sound": None,
    "silence": lambda random, n: np.zeros(n),
    "white noise": lambda random, n: coloured(0, random, n),
    "pink noise": lambda random, n: coloured(1, random, n),
    "brown noise": lambda random, n: coloured(2, random, n),
    "tone": lambda random, n: tones(random.uniform(80, 4000, 1), random, n),
    "hum": lambda random, n: tones(random.choice([50, 60]) * np.arange(1, 8), random, n),
    "chord": lambda random, n: tones(220 * 2 ** (random.integers(0, 24, 4) / 12), random, n),
    "clicks": lambda random, n: (random.random(n) < 0.0005) * random.uniform(0.2, 1),
    "wind": lambda random, n: coloured(1.5, random, n) * (1 + np.sin(np.arange(n) / RATE * random.uniform(1, 6))) / 2,
}


def nothing(random: Random) -> tuple[str, str, MediaArrays]:
    """An input that says nothing, and what it is made of."""
    while True:
        picture, sound = str(random.choice(list(PICTURES))), str(random.choice(list(SOUNDS)))
        draw, play = PICTURES[picture], SOUNDS[sound]
        if draw or play:
            break
    seconds = float(random.uniform(1.5, 3))
    times = np.arange(0, seconds, STEP_S)
    frames = np.stack([draw(random)] * len(times)) if draw else None
    heard = play(random, int(seconds * RATE)).astype(np.float32) if play else None
    return picture, sound, arrays(frames, heard)


def arrays(frames: Picture | None, sound: Sound | None) -> MediaArrays:
    """Frames each half second, and sound."""
    times = None if frames is None else np.arange(len(frames)) * STEP_S
    return MediaArrays(frames=frames, times=times, sound=sound, sample_rate=None if sound is None else RATE)


def withheld(prediction: Prediction) -> bool:
    """Whether no label is given for want of anything to go on."""
    return prediction.uncertain is not None or not prediction.modalities


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--count", default=500, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(bundle: Path, data: Path, count: int, seed: int, out: Path | None) -> None:
    """Count both."""
    opened, random = Bundle.open(bundle), np.random.default_rng(seed)
    if not opened.domain:
        raise click.ClickException(f"{bundle} has no domain: mmx calibrate --probabilities")
    made, given = Counter[str](), Counter[str]()
    with Predictor(opened, threads=1, asr="none") as predictor:
        for _ in range(count):
            picture, sound, media = nothing(random)
            ok = all(withheld(each) for each in predictor.predict(media))
            for kind in (picture, sound, "all"):
                made[kind] += 1
                given[kind] += not ok
        items = find_dataset(data).items("test")
        lost = part_lost = 0
        for item in items:
            seen = read_media(item, opened.manifest.preprocessing)
            (answer,) = predictor.predict(arrays(np.stack(seen.frames), seen.sound), text=item.text)
            lost += withheld(answer)
            part_lost += len(answer.modalities) < 3
    for kind in made:
        click.echo(f"{kind:12}  {made[kind]:4} inputs, {given[kind]:3} got labels")
    click.echo(f"withheld {1 - given['all'] / made['all']:.1%} of {made['all']} inputs that say nothing")
    click.echo(f"good clips: {lost} of {len(items)} withheld, {part_lost} without a modality that they have")
    if out:
        counts = {"inputs": dict(made), "given": dict(given), "good": len(items), "lost": lost, "part_lost": part_lost}
        write_text(out, to_json(counts) + "\n")


if __name__ == "__main__":
    main()
