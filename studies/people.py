"""What following people costs where there is one: the faces of each frame, with and without a tracker.

    python studies/people.py VIDEO... [--passes 5] [--json OUT]

CPU seconds of one thread, frame by frame in turn, on the frames that a prediction looks at.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from mmx.evaluation.environment import describe
from mmx.export.assets import find_face_nets
from mmx.export.face_nets import build_face_nets
from mmx.runtime.files import write_text
from mmx.runtime.manifest import FaceSpec, Preprocessing
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.reader import Frame, read_segments
from mmx.runtime.people import Tracker


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--passes", default=5, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(videos: tuple[Path, ...], passes: int, out: Path | None) -> None:
    """Print the ratio for each video, and how many people were told apart."""
    with TemporaryDirectory() as folder:
        detector = FaceDetector(build_face_nets(find_face_nets(), Path(folder)), FaceSpec(), threads=1)
        rows = [_row(detector, video, passes) for video in videos]
    for row in rows:
        click.echo(f"{row['video']}: {row['ratio']:.3f} ({row['people']} people, {row['frames']} frames)")
    if out:
        write_text(out, json.dumps({"environment": asdict(describe()), "rows": rows}, indent=1) + "\n")


def _row(detector: FaceDetector, video: Path, passes: int) -> dict[str, object]:
    frames = [event for event in read_segments(video, None, Preprocessing()) if isinstance(event, Frame)]
    ratios, people = [], 0
    for number in range(passes):
        plain = followed = 0.0
        tracker = Tracker()
        for i, frame in enumerate(frames):
            for with_tracker in (False, True) if (i + number) % 2 else (True, False):
                began = time.process_time()
                if with_tracker:
                    numbers = tracker.follow(frame.time, frame.rgb, detector.find([frame.rgb])[0])
                    people = max(people, *(who or 0 for who in numbers))
                    followed += time.process_time() - began
                else:
                    detector.extract([frame.rgb])
                    plain += time.process_time() - began
        ratios.append(followed / plain)
    return {"video": video.name, "frames": len(frames), "people": people, "ratio": statistics.median(ratios)}


if __name__ == "__main__":
    main()
