"""Hostile and odd files: each is read with a flag that says what is wrong, or rejected in one line that names it."""

from __future__ import annotations

import gc
import io
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.container import probe
from mmx.runtime.media.decode import SoundTrack, VideoTrack, resample_sound, upright_rgb
from mmx.runtime.media.reader import Frame, read_segments

MakeMedia = Callable[..., Path]
TONE = (8000 * np.sin(2 * np.pi * 300 * np.arange(8 * 16000) / 16000)).astype(np.int16)[None]


def _read(path: Path):
    events = list(read_segments(path, None, Preprocessing()))
    return [e for e in events if isinstance(e, Frame)], [e for e in events if not isinstance(e, Frame)]


def _noisy_frames(count: int, fps: int = 25) -> list[tuple[float, np.ndarray]]:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (96, 128, 3), np.uint8)
    return [(i / fps, np.roll(base, (i // 128, i), axis=(0, 1))) for i in range(count)]


@pytest.fixture(scope="module")
def clip(make_media: MakeMedia, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """clip(".mp4"): 8 s of picture and sound in that container."""
    folder = tmp_path_factory.mktemp("clip")

    def get(suffix: str) -> Path:
        path = folder / f"clip{suffix}"
        if not path.exists():
            sound = {"samples": TONE, "rate": 16000, "codec": "mp2", "kind": "s16"}
            codec = "mpeg4" if suffix == ".avi" else "libx264"
            make_media(path, picture={"frames": _noisy_frames(200), "codec": codec}, sound=sound)
        return path

    return get


@pytest.fixture(scope="module")
def half(clip: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The first half of the bytes of such a clip."""

    def get(suffix: str) -> Path:
        path = tmp_path_factory.mktemp("half") / f"half{suffix}"
        data = (_index_first(clip(suffix), path) if suffix == ".mp4" else clip(suffix)).read_bytes()
        path.write_bytes(data[: len(data) // 2])
        return path

    return get


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".mov"])
def test_containers_agree(clip: Callable[[str], Path], suffix: str) -> None:
    frames, (end,) = _read(clip(suffix))
    assert [round(frame.time, 2) for frame in frames] == pytest.approx([i / 2 for i in range(16)], abs=0.05)
    assert end.flags == () and len(end.sound) == pytest.approx(8 * 16000, abs=2500)
    sources = np.stack([rgb for _, rgb in _noisy_frames(200)]).mean(axis=3)
    for frame in frames:  # the picture shown at that time
        number = int(np.abs(sources - frame.rgb.mean(axis=2)).mean(axis=(1, 2)).argmin())
        assert abs(number / 25 - frame.time) < 0.045


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts", ".avi"])
def test_truncated_file_gives_what_is_there(
    half: Callable[[str], Path], suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    frames, (end,) = _read(half(suffix))
    assert 4 <= len(frames) <= 12 and 2.5 * 16000 < len(end.sound) < 6 * 16000
    if suffix in (".mkv", ".mp4"):  # the others do not declare their length
        assert "truncated_media" in end.flags
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("suffix", "flag"), [(".mp4", "corrupt_media"), (".ts", "corrupt_media"), (".mkv", "sound_gap")]
)
def test_corrupt_bytes_are_passed_over(
    clip: Callable[[str], Path], tmp_path: Path, suffix: str, flag: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(clip(suffix).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path = tmp_path / f"corrupt{suffix}"
    path.write_bytes(data)
    frames, (end,) = _read(path)
    assert len(frames) >= 12 and flag in end.flags and "truncated_media" not in end.flags
    assert capfd.readouterr().err == ""


def test_one_frame(make_media: MakeMedia, tmp_path: Path) -> None:
    path = make_media(tmp_path / "one.mp4", picture={"frames": _noisy_frames(1)})
    frames, (end,) = _read(path)
    assert [frame.time for frame in frames] == [0.0] and not len(end.sound) and not probe(path).has_audio


def test_rotation_is_undone(make_media: MakeMedia, tmp_path: Path) -> None:
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48] = (255, 0, 0)
    for turn in (90, 180, 270):
        stored = np.rot90(upright, -turn // 90)
        path = make_media(
            tmp_path / f"{turn}.mp4",
            picture={"frames": [(0, stored), (0.1, stored)], "rotation": turn, "codec": "libx264"},
        )
        frames, _ = _read(path)
        assert frames[0].rgb.shape == upright.shape
        assert np.abs(frames[0].rgb.astype(int) - upright).mean() < 12, turn


def test_cover_art_is_no_video(make_media: MakeMedia, tmp_path: Path) -> None:
    sound = make_media(
        tmp_path / "a.mp3", sound={"samples": TONE, "rate": 16000, "codec": "libmp3lame", "kind": "s16p"}
    )
    with av.open(tmp_path / "cover.mjpeg", "w", format="mjpeg") as out:
        video = out.add_stream("mjpeg", rate=1)
        video.height, video.width, video.pix_fmt = 64, 64, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        out.mux(video.encode(frame) + video.encode(None))
    picture = b"\0image/jpeg\0\x03\0" + (tmp_path / "cover.mjpeg").read_bytes()
    body = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
    size = bytes((len(body) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    path = tmp_path / "song.mp3"
    path.write_bytes(b"ID3\x03\0\0" + size + body + sound.read_bytes())
    with av.open(path) as container:
        assert len(container.streams.video) == 1, "the file has cover art"
    assert not probe(path).has_video and probe(path).has_audio
    frames, (end,) = _read(path)
    assert not frames and len(end.sound) > 7 * 16000


@pytest.mark.parametrize("suffix", [".h264", ".aac"])
def test_streams_without_timestamps(make_media: MakeMedia, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"raw{suffix}"
    if suffix == ".h264":
        make_media(path, picture={"frames": _noisy_frames(50), "codec": "libx264"})
        assert [round(time, 3) for time, _ in VideoTrack(path)] == [round(i / 25, 3) for i in range(50)]
    else:
        samples = np.tile(TONE / 32768, (1, 1)).astype(np.float32)
        make_media(path, sound={"samples": samples, "rate": 16000, "codec": "aac", "kind": "fltp"})
        assert len(_read(path)[1][0].sound) == pytest.approx(8 * 16000, abs=3000)


def test_times_that_start_again_are_not_believed(clip: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "twice.ts"
    path.write_bytes(clip(".ts").read_bytes() * 2)
    frames, ends = _read(path)
    times = [frame.time for frame in frames]
    assert times == sorted(times) and ends[-1].span.end == pytest.approx(16, abs=0.5)
    assert sum(len(end.sound) for end in ends) == pytest.approx(16 * 16000, abs=6000)
    assert "repaired_timestamps" in ends[-1].flags


def test_a_stream_that_the_header_did_not_announce(
    clip: Callable[[str], Path], make_media: MakeMedia, tmp_path: Path
) -> None:
    """The sound begins 40 s into the file, long after the demuxer has stopped looking for streams."""
    picture = make_media(tmp_path / "p.ts", picture={"frames": _noisy_frames(1000), "codec": "libx264"})
    path = tmp_path / "late.ts"
    path.write_bytes(picture.read_bytes() + clip(".ts").read_bytes())
    frames, _ = _read(path)
    assert len(frames) == pytest.approx(96, abs=2)


def test_a_picture_that_grows_past_the_limit(
    make_media: MakeMedia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = [(i / 25, np.zeros((64, 64, 3), np.uint8)) for i in range(50)]
    small = make_media(tmp_path / "s.h264", picture={"frames": black, "codec": "libx264"})
    large = make_media(tmp_path / "l.h264", picture={"frames": _noisy_frames(50), "codec": "libx264"})
    path = tmp_path / "grows.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    assert {frame.rgb.shape for frame in _read(path)[0]} == {(64, 64, 3), (96, 128, 3)}
    monkeypatch.setattr("mmx.runtime.media.container.MAX_PIXELS", 64 * 64)  # and what the decoder is allowed, below
    with pytest.raises(BadDataError, match="frames of 128x96 pixels"):
        _read(path)


def test_nan_samples_are_silence(make_media: MakeMedia, tmp_path: Path) -> None:
    samples = (TONE / 32768).astype(np.float32)
    samples[0, 1000:1010] = [np.nan, np.inf, -np.inf, 1e38, 0, 0, 0, 0, 0, np.nan]
    path = make_media(
        tmp_path / "nan.wav", sound={"samples": samples, "rate": 16000, "codec": "pcm_f32le", "kind": "flt"}
    )
    (end,) = _read(path)[1]
    assert np.isfinite(end.sound).all() and "corrupt_media" in end.flags


def _index_first(source: Path, out: Path) -> Path:
    """The same packets in an MP4 file whose index (moov) comes first, as web sites serve it."""
    with av.open(source) as media, av.open(out, "w", container_options={"movflags": "faststart"}) as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in media.streams}
        for packet in media.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    return out


def _wav(rate: int) -> bytes:
    data = TONE.tobytes()
    form = struct.pack("<HHIIHH", 1, 1, rate, rate * 2 & 0xFFFFFFFF, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )


def _gif(width: int, height: int) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"


REJECTED: dict[str, tuple[bytes | None, str]] = {
    "missing.mp4": (None, "cannot be read: No such file"),
    "nul\0byte.mp4": (None, "cannot be read"),
    "empty.mp4": (b"", "is empty"),
    "text.mp4": (b"I am a video, honestly.\n" * 50, "it is text"),
    "noise.mkv": (np.random.default_rng(0).bytes(5000), "cannot be read as media"),
    "zeros.mp4": (bytes(5000), "cannot be read as media"),
    "list.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nPLACE\n#EXT-X-ENDLIST\n", "playlist"),
    "list.mp4": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nPLACE\n#EXT-X-ENDLIST\n", "it is text"),
    "concat.mp4": (b"ffconcat version 1.0\nfile 'PLACE'\n", "playlist"),
    "dash.mpd": (b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"/>', "cannot be read"),
    "session.sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", "playlist"),
    "subtitles.srt": (b"1\n00:00:01,000 --> 00:00:02,000\nhi\n", "cannot be read as media"),
    "slow.wav": (_wav(2), "sample rate of 2 Hz"),
    "fast.wav": (_wav(2_000_000_000), "sample rate"),
    "huge.gif": (_gif(65535, 65535), "pixels|cannot be read|decoded"),
    "large.gif": (_gif(15000, 15000), "more than 36000000 pixels"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_in_one_line(
    name: str, clip: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, message = REJECTED[name]
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data.replace(b"PLACE", str(clip(".mp4")).encode()))
    for act in (_read,) if name == "huge.gif" else (probe, _read):
        with pytest.raises(BadDataError, match=message) as caught:
            act(path)
        assert str(path) in caught.value.message and caught.value.hint and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_names_are_no_protocols(tmp_path: Path, clip: Callable[[str], Path]) -> None:
    for name in (
        f"concat:{clip('.mp4')}",
        "pipe:0",
        f"subfile,,start,0,end,9,,:{clip('.mp4')}",
    ):
        with pytest.raises(BadDataError, match="No such file"):
            probe(name)
    for name in ("folder", "/dev/zero"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(BadDataError, match=r"is a folder|no regular file"):
            probe(tmp_path / name)


def test_mp4_cut_short_says_what_is_missing(clip: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    path.write_bytes(clip(".mp4").read_bytes()[:-3000])
    with pytest.raises(BadDataError, match=r"its index \(moov\) is missing"):
        probe(path)


def test_media_without_anything_to_decode(clip: Callable[[str], Path], tmp_path: Path) -> None:
    """A whole header whose packets are all noise."""
    data = bytearray(clip(".mp4").read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = b"\xff" * (end - start)
    path = tmp_path / "hollow.mp4"
    path.write_bytes(data)
    with pytest.raises(BadDataError, match="nothing in it could be decoded"):
        _read(path)


def test_subtitles_alone_are_no_media(tmp_path: Path) -> None:
    path = tmp_path / "words.mkv"
    with av.open(path, "w") as out:
        stream = out.add_mux_stream("subrip")
        packet = av.Packet(b"hello")
        packet.stream, packet.pts, packet.dts, packet.duration = stream, 0, 0, 1000
        out.mux(packet)
    with pytest.raises(BadDataError, match="holds no video and no sound"):
        probe(path)


def test_raw_arrays_are_resampled() -> None:
    time = np.arange(48000) / 48000
    left, right = 0.5 * np.sin(2 * np.pi * 300 * time), 0.25 * np.cos(2 * np.pi * 500 * time)
    at_16k = np.arange(16000) / 16000
    expected = (0.5 * np.sin(2 * np.pi * 300 * at_16k) + 0.25 * np.cos(2 * np.pi * 500 * at_16k)) / 2
    for samples, tolerance in (
        (np.stack([left, right]), 1e-3),
        ((np.stack([left, right]) * 32768).astype(np.int16), 1e-3),
        ((np.stack([left, right]) * 128 + 128).astype(np.uint8), 1e-2),
    ):
        sound = resample_sound(samples, 48000)
        assert sound.dtype == np.float32 and len(sound) == 16000
        assert np.abs(sound - expected)[400:-400].max() < tolerance
    same = expected.astype(np.float32)
    np.testing.assert_array_equal(resample_sound(same, 16000), same)
    for samples, rate in (
        (np.zeros((2, 2, 2)), 16000),
        (np.zeros(9, bool), 16000),
        (np.zeros(9), 0),
        (np.zeros(9), 10**9),
    ):
        with pytest.raises(BadDataError):
            resample_sound(samples, rate)


def test_a_picture_goes_with_its_last_reference(talking_face: tuple[Path, str]) -> None:
    """Without the garbage collector, which comes when objects have piled up and not when megabytes have."""
    path, _ = talking_face
    gc.collect()
    gc.disable()
    try:
        with VideoTrack(path) as track:
            for _, (_time, frame) in zip(range(20), track, strict=False):
                track.rgb(frame)
                del frame
            assert sum(type(each) is av.VideoFrame for each in gc.get_objects()) <= 2
    finally:
        gc.enable()


def test_tracks_of_a_real_clip(talking_face: tuple[Path, str]) -> None:
    """Times and pixels as PyAV's plain decoding gives them."""
    path, _ = talking_face
    with av.open(path) as container:
        plain = [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]
    with VideoTrack(path) as track:
        for (time, frame), (expected, rgb) in zip(track, plain, strict=True):
            assert time == pytest.approx(expected)
            np.testing.assert_array_equal(upright_rgb(frame), rgb)
        assert track.faults() == (0, 0, 0) and track.decoded == len(plain)
    with SoundTrack(path) as sound:
        position = 0
        for index, samples in sound:
            assert index == position
            position += len(samples)


def test_frames_larger_than_their_header_says(tmp_path: Path) -> None:
    """A header of 64x64 and JPEG frames of 6100x6100: the decoder is not let to begin on them."""
    jpeg = io.BytesIO()
    Image.new("RGB", (6100, 6100), (90, 120, 200)).save(jpeg, "jpeg", quality=20)
    data = jpeg.getvalue()
    small = io.BytesIO()
    Image.new("RGB", (64, 64)).save(small, "jpeg")
    for first in (small.getvalue(), data):
        path = tmp_path / "large.avi"
        with av.open(path, "w") as out:
            stream = out.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
            for number in range(6):
                packet = av.Packet(data if number else first)
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                packet.pts = packet.dts = number
                packet.is_keyframe = True
                out.mux_one(packet)
        with pytest.raises(BadDataError, match="more than 36000000 pixels"):
            _read(path)
