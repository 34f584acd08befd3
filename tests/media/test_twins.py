"""The same video gives the same answer, whatever it is wrapped in: every case is one plain clip written another way.

The plain clip is lossless (FFV1 and 16-bit PCM in Matroska). A twin that is lossless too gives the same bits; a lossy
one, or one at another rate, an answer within the tolerances below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from mmx.runtime.bundle import Bundle
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.reader import Frame, SegmentEnd, read_segments
from mmx.runtime.network import Network
from mmx.runtime.preprocess import Preprocessor, Segment
from mmx.runtime.types import DEFAULT_TRACKS, Tracks

from .twins import FPS, HELD, LATE_S, SECONDS, Audio, Clip, Video, plain_clip, write

X264 = Video("libx264", options={"qp": "0", "preset": "ultrafast"})  # lossless
DEFAULT = int(Disposition.default)


@dataclass(frozen=True)
class Tolerance:
    """How far a twin may be from the plain clip.

    ``box``: of a face's corners, in fractions of the frame. ``crop``: mean difference of a face's pixels, of 255.
    ``mel``: sum of differences by the sum of the plain clip's mel. ``probability``: of any label.
    """

    box: float
    crop: float
    mel: float
    probability: float


EXACT = Tolerance(0.0, 0.0, 0.0, 0.0)
FINE = Tolerance(0.0, 0.0, 0.001, 0.0001)  # other roundings of the sound
NEAR = Tolerance(0.0, 0.0, 0.08, 0.01)  # lossless frames, lossy sound
LOSSY = Tolerance(0.04, 14.0, 0.08, 0.03)  # a face of 60 pixels, whose box moves by a few


@dataclass(frozen=True)
class Twin:
    """A file name, the tracks in it, and how near its answer must be; ``flags``: what may be said of it beside."""

    name: str
    tracks: tuple[Video | Audio, ...]
    tolerance: Tolerance = EXACT
    options: dict[str, str] | None = None
    subtitle_until: float | None = None
    flags: tuple[str, ...] = ()
    chosen: Tracks = DEFAULT_TRACKS


def _centre(mono: np.ndarray, names: list[str]) -> np.ndarray:
    """Speech where videos have it; without a centre, in both fronts at the power that makes it as loud."""
    level = {"FC": 1.0} if "FC" in names else dict.fromkeys(("FL", "FR"), math.sqrt(0.5))
    return np.stack([mono * level.get(name, 0.0) for name in names])


def _in_front(mono: np.ndarray, names: list[str]) -> np.ndarray:
    return np.stack([mono * (name in ("FL", "FR")) for name in names])


def _new(number: int) -> bool:
    """Whether a frame differs from the one before, or ends the clip."""
    return number == 0 or (number > LATE_S * FPS and number % HELD == 0) or number == FPS * SECONDS - 1


def _orientation(a: int, b: int, c: int, d: int) -> Video:
    """Frames stored so that this display matrix shows them upright."""

    def turn(rgb: np.ndarray) -> np.ndarray:
        return rgb[:: d or 1, :: a or 1] if a or d else rgb[::b, ::c].swapaxes(0, 1)

    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    return Video("libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"}, matrix=matrix, turn=turn)


def _hdr(kind: str) -> Video:
    """The frames as HDR: BT.709 light at 203 cd/m2 white (BT.2408), in BT.2020 and this transfer function."""
    transfer = {"pq": 16, "hlg": 18}[kind]

    def prepare(frame: av.VideoFrame) -> av.VideoFrame:
        light = (frame.to_ndarray(format="rgb24") / 255.0) ** 2.4 @ BT709_TO_BT2020.T
        red, green, blue = np.moveaxis(_pq(light * 0.0203) if kind == "pq" else _hlg(light * 0.203), -1, 0)
        luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
        planes = [luma * 876 + 64]
        for difference in ((blue - luma) / 1.8814, (red - luma) / 1.4746):
            height, width = difference.shape
            planes.append(difference.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) * 896 + 512)
        out = av.VideoFrame(frame.width, frame.height, "yuv420p10le")
        for plane, values in zip(out.planes, planes, strict=True):
            rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
            rows[:, : plane.width] = values.round()
            plane.update(rows)
        out.colorspace, out.color_range, out.color_trc, out.color_primaries = 9, 1, transfer, 9
        return out

    colour = {"color_primaries": 9, "color_trc": transfer, "colorspace": 9, "color_range": 1}
    return Video("ffv1", "yuv420p10le", prepare=prepare, colour=colour)


BT709_TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def _pq(light: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: light in 10,000 cd/m2 -> signal."""
    power = light**0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def _hlg(light: np.ndarray) -> np.ndarray:
    """BT.2100: light in 1,000 cd/m2 -> signal, with a system gamma of 1.2."""
    luminance = light @ [0.2627, 0.6780, 0.0593]
    scene = light * np.maximum(luminance, 1e-6)[..., None] ** (1 / 1.2 - 1)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


ORIENTATIONS = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)] + [
    (0, b, c, 0) for b in (1, -1) for c in (1, -1)
]
LAYOUTS = ("3.0", "4.0", "quad", "3.1", "5.0", "5.1", "5.1(side)", "6.1", "7.1", "7.1(wide)", "5.1.2", "7.1.4", "22.2")
STILL = Video("png", "rgb24", chosen=lambda number: number == 0, black=True)
SILENT = Audio(silent=True, disposition=0)
FASTEST = {"preset": "ultrafast"}

TWINS: dict[str, Twin] = {
    # Containers.
    **{f"container {suffix}": Twin(f"a.{suffix}", (X264, Audio())) for suffix in ("mp4", "mov", "mkv", "nut")},
    "container avi": Twin("a.avi", (Video(), Audio())),
    "container asf": Twin("a.asf", (Video("msmpeg4", options={"qmin": "1", "qmax": "2"}), Audio()), LOSSY),
    "container mxf": Twin("a.mxf", (Video("mpeg2video", options={"qmin": "1", "qmax": "2"}), Audio()), LOSSY),
    "container ts": Twin("a.ts", (X264, Audio("aac")), NEAR),
    "container mpg": Twin("a.mpg", (Video("mpeg2video", options={"qmin": "1", "qmax": "2"}), Audio("mp2")), LOSSY),
    "container flv": Twin("a.flv", (X264, Audio("pcm_s16le", rate=44100)), NEAR),
    "container webm": Twin(
        "a.webm",
        (Video("libvpx-vp9", options={"lossless": "1", "cpu-used": "8", "deadline": "realtime"}), Audio("libopus")),
        NEAR,
    ),
    "container 3gp": Twin("a.3gp", (Video("mpeg4", options={"qmin": "1", "qmax": "2"}), Audio("aac")), LOSSY),
    "index first": Twin("a.mp4", (X264, Audio()), options={"movflags": "faststart"}),
    "fragments": Twin("a.mp4", (X264, Audio()), options={"movflags": "frag_keyframe+empty_moov"}),
    "live, no length": Twin("a.mkv", (X264, Audio()), options={"live": "1"}),
    "hybrid ts, 192 bytes": Twin("a.ts", (X264, Audio("aac")), NEAR, options={"mpegts_m2ts_mode": "1"}),
    # Codecs.
    "huffyuv": Twin("a.avi", (Video("ffvhuff"), Audio())),
    "utvideo": Twin("a.avi", (Video("utvideo"), Audio())),
    "HEVC": Twin("a.mp4", (Video("libx265", options={"x265-params": "lossless=1:log-level=none", **FASTEST}), Audio())),
    "H.264 with B frames": Twin("a.mkv", (Video("libx264", options={"qp": "0", "preset": "fast", "bf": "3"}), Audio())),
    "H.264, lossy": Twin("a.mp4", (Video("libx264", options={"crf": "10", **FASTEST}), Audio()), LOSSY),
    "AV1": Twin("a.mkv", (Video("libsvtav1", options={"crf": "10", "preset": "12"}), Audio()), LOSSY),
    "VP8": Twin("a.mkv", (Video("libvpx", options={"crf": "4", "b": "4M", "cpu-used": "8"}), Audio()), LOSSY),
    "MPEG-4": Twin("a.avi", (Video("mpeg4", options={"qmin": "1", "qmax": "2"}), Audio()), LOSSY),
    "MJPEG": Twin("a.avi", (Video("mjpeg", "yuvj420p", options={"qmin": "1", "qmax": "1"}), Audio()), LOSSY),
    "ProRes": Twin("a.mov", (Video("prores_ks", "yuv422p10le"), Audio()), LOSSY),
    "PQ": Twin("a.mkv", (_hdr("pq"), Audio()), LOSSY, flags=("hdr_video",)),
    "HLG": Twin("a.mkv", (_hdr("hlg"), Audio()), LOSSY, flags=("hdr_video",)),
    "ten bits": Twin("a.mkv", (Video("ffv1", "yuv420p10le"), Audio()), LOSSY),
    "PNG frames": Twin("a.mov", (Video("png", "rgb24"), Audio())),
    "FLAC": Twin("a.mkv", (Video(), Audio("flac"))),
    "ALAC": Twin("a.mov", (X264, Audio("alac")), FINE),
    "24 bits": Twin("a.mov", (X264, Audio("pcm_s24le")), FINE),
    "float": Twin("a.mkv", (Video(), Audio("pcm_f32le")), FINE),
    "AAC": Twin("a.mp4", (X264, Audio("aac", options={"b": "256k"})), NEAR),
    "MP3": Twin("a.mp4", (X264, Audio("libmp3lame", options={"b": "192k"})), NEAR),
    "AC-3": Twin("a.mkv", (Video(), Audio("ac3", options={"b": "256k"})), NEAR),
    "Opus": Twin("a.mkv", (Video(), Audio("libopus", options={"b": "256k"})), NEAR),
    # Orientations.
    **{f"matrix {matrix}": Twin("a.mp4", (_orientation(*matrix), Audio())) for matrix in ORIENTATIONS},
    "matrix in Matroska": Twin("a.mkv", (_orientation(0, -1, 1, 0), Audio())),
    # Channels.
    "stereo": Twin("a.mkv", (Video(), Audio(layout="stereo"))),
    "2.1": Twin("a.mov", (X264, Audio(layout="2.1", channels=_in_front))),
    **{
        f"layout {layout}": Twin("a.mkv", (Video(), Audio("pcm_f32le", layout=layout, channels=_centre)), FINE)
        for layout in LAYOUTS
    },
    "7.1 in planes": Twin("a.mp4", (X264, Audio("aac", layout="7.1", channels=_centre, options={"b": "768k"})), NEAR),
    "5.1 AC-3": Twin("a.mkv", (Video(), Audio("ac3", layout="5.1", channels=_centre, options={"b": "640k"})), NEAR),
    # Tracks.
    "silent track first": Twin("a.mkv", (Video(), SILENT, Audio()), flags=("several_audio_tracks",)),
    "silent track first, MP4": Twin("a.mp4", (X264, SILENT, Audio()), flags=("several_audio_tracks",)),
    "silent track second": Twin("a.mkv", (Video(), Audio(), SILENT), flags=("several_audio_tracks",)),
    "audio track by number": Twin("a.mkv", (Video(), Audio(silent=True), Audio(disposition=0)), chosen=Tracks(audio=1)),
    "audio for the blind first": Twin(
        "a.mkv",
        (Video(), Audio(silent=True, disposition=DEFAULT | Disposition.visual_impaired), Audio()),
        flags=("several_audio_tracks",),
    ),
    "black track first": Twin(
        "a.mkv", (Video(black=True, disposition=0), Video(), Audio()), flags=("several_video_tracks",)
    ),
    "video track by number": Twin("a.mkv", (Video(black=True), Video(disposition=0), Audio()), chosen=Tracks(video=1)),
    "still first": Twin("a.mov", (STILL, X264, Audio())),
    "still first, Matroska": Twin("a.mkv", (replace(STILL, codec="mjpeg", pixels="yuvj420p"), Video(), Audio())),
    "sound first": Twin("a.mkv", (Audio(), Video())),
    # Rates.
    **{f"sound at {rate}": Twin("a.mkv", (Video(), Audio(rate=rate)), NEAR) for rate in (16000, 32000, 44100, 96000)},
    "repeats left out": Twin("a.mkv", (Video(chosen=_new), Audio())),
    "repeats left out, MP4": Twin(
        "a.mp4",
        (Video("libx264", options=X264.options, chosen=_new), Audio()),
    ),
    "uneven times": Twin("a.mkv", (Video(time=lambda i: i / FPS + 0.012 * (i % HELD == 2)), Audio())),
    # Clocks, edit lists, tracks that begin late or early.
    "starts at 5 s": Twin(
        "a.mkv", (Video(time=lambda i: 5 + i / FPS), Audio(shift=5.0)), options={"avoid_negative_ts": "disabled"}
    ),
    "starts at 100 s, ts": Twin(
        "a.ts", (Video("libx264", options=X264.options, time=lambda i: 100 + i / FPS), Audio("aac", shift=100.0)), NEAR
    ),
    "sound late": Twin("a.mkv", (Video(), Audio(start=LATE_S)), FINE),
    "sound late, edit list": Twin("a.mp4", (X264, Audio(start=LATE_S)), FINE),
    "sound late, ts": Twin("a.ts", (X264, Audio("aac", start=LATE_S)), NEAR),
    "video late": Twin("a.mkv", (Video(chosen=lambda i: i >= LATE_S * FPS), Audio())),
    "video late, edit list": Twin(
        "a.mp4", (Video("libx264", options=X264.options, chosen=lambda i: i >= LATE_S * FPS), Audio())
    ),
    # Lengths.
    "subtitle goes on for a minute": Twin("a.mkv", (Video(), Audio()), subtitle_until=60.0),
    "subtitle, live": Twin("a.mkv", (Video(), Audio()), subtitle_until=60.0, options={"live": "1"}),
    # Sound alone.
    **{f"sound alone, {suffix}": Twin(f"a.{suffix}", (Audio(),)) for suffix in ("wav", "w64", "caf", "mka", "mov")},
    "sound alone, aiff": Twin("a.aiff", (Audio("pcm_s16be"),)),
    "sound alone, au": Twin("a.au", (Audio("pcm_s16be"),)),
    "sound alone, flac": Twin("a.flac", (Audio("flac"),)),
    "sound alone, ogg": Twin("a.ogg", (Audio("flac"),)),
    "sound alone, m4a": Twin("a.m4a", (Audio("aac", options={"b": "256k"}),), NEAR),
    "sound alone, mp3": Twin("a.mp3", (Audio("libmp3lame", options={"b": "192k"}),), NEAR),
    "sound alone, opus": Twin("a.opus", (Audio("libopus", options={"b": "256k"}),), NEAR),
}
assert len(TWINS) >= 60


@pytest.fixture(scope="module")
def clip(talking_face: tuple[Path, str]) -> Clip:
    return plain_clip(talking_face[0])


@pytest.fixture(scope="module")
def network(tiny_bundle: Path) -> Network:
    return Network.open(tiny_bundle, "onnxruntime", threads=1)


@pytest.fixture(scope="module")
def preprocessor(tiny_bundle: Path) -> Preprocessor:
    return Preprocessor(Bundle.open(tiny_bundle), threads=1)


@pytest.fixture(scope="module")
def plain(clip: Clip, preprocessor: Preprocessor, tmp_path_factory: pytest.TempPathFactory) -> Segment:
    path = write(tmp_path_factory.mktemp("plain") / "plain.mkv", clip)
    (segment,) = preprocessor.segments(path)
    assert len(segment.faces) == segment.frames_seen == 4 and len(segment.sample.pieces) == 6 and not segment.flags
    return segment


def _probabilities(network: Network, segment: Segment) -> np.ndarray:
    logits: np.ndarray = network.logits([segment.sample])["logits"][0]
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("name", TWINS)
def test_twin(
    name: str, clip: Clip, plain: Segment, preprocessor: Preprocessor, network: Network, tmp_path: Path
) -> None:
    twin = TWINS[name]
    path = write(tmp_path / twin.name, clip, twin.tracks, options=twin.options, subtitle_until=twin.subtitle_until)
    (segment,) = preprocessor.segments(path, tracks=twin.chosen)
    assert segment.flags == twin.flags
    videos = [track for track in twin.tracks if isinstance(track, Video)]
    moving = [track for track in videos if track.codec not in ("png", "mjpeg") or len(videos) == 1]  # no stills
    assert (segment.video_tracks, segment.audio_tracks) == (len(moving), len(twin.tracks) - len(videos))
    allowed = twin.tolerance
    length = plain.sample.pieces.shape[0]
    mine, theirs = (sample.pieces[: length - 1] for sample in (segment.sample, plain.sample))
    assert np.abs(mine - theirs).sum() <= allowed.mel * theirs.sum()
    if videos:
        assert len(segment.faces) == segment.frames_seen == len(plain.faces)
        boxes = [np.array([face.box for face in each.faces]) for each in (segment, plain)]
        assert np.abs(boxes[0] - boxes[1]).max() <= allowed.box
        assert np.abs(segment.sample.faces - plain.sample.faces).mean() <= allowed.crop
        difference = _probabilities(network, segment) - _probabilities(network, plain)
        assert np.abs(difference).max() <= allowed.probability


@pytest.mark.parametrize("kind", ["pq", "hlg"])
def test_mapped_hdr_is_nearer_than_hdr_as_it_is(kind: str, clip: Clip, tmp_path: Path) -> None:
    """Against the frames before they were made HDR; ``keep`` is what a reader gives that knows nothing of HDR."""
    path = write(tmp_path / "hdr.mkv", clip, (_hdr(kind),))
    sdr = [clip.frames[i].to_ndarray(format="rgb24").astype(float) for i in (0, 12, 25, 37)]
    errors = {}
    for hdr in ("map", "keep"):
        spec = replace(Preprocessing(), video=replace(Preprocessing().video, hdr=hdr))
        events = list(read_segments(path, None, spec))
        assert [event.flags for event in events if isinstance(event, SegmentEnd)] == [("hdr_video",)]
        frames = [event.rgb for event in events if isinstance(event, Frame)]
        errors[hdr] = np.mean([np.abs(a - b).mean() for a, b in zip(frames, sdr, strict=True)])
    assert errors["map"] < 2 < 8 < errors["keep"]
