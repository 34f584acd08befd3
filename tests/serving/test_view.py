"""The answers as a page and as a video: what is seen in a real browser, and what the drawn frames hold."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from waiting import until

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Manifest
from mmx.runtime.prediction import Prediction, SeenFace
from mmx.view.overlay import burn, face_at
from mmx.view.report import EMBED_BYTES, FileAnswers, write_report

LABELS = ("ang", "hap", "sad")
THRESHOLDS = dict(zip(LABELS, (0.5, 0.6, 0.4), strict=True))
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
BOX = (0.25, 0.25, 0.75, 0.75)


def answer(start: float, values: tuple[float, ...], **fields: Any) -> Prediction:
    probabilities = dict(zip(LABELS, values, strict=True))
    return Prediction(
        file="video.mp4",
        start=start,
        end=start + 1,
        probabilities=probabilities,
        labels=tuple(name for name in LABELS if probabilities[name] > THRESHOLDS[name]),
        logits=dict.fromkeys(LABELS, 1.0),
        modality_logits={"text": dict.fromkeys(LABELS, 1.0), "visual": dict.fromkeys(LABELS, -0.5)},
        contributions={"text": dict.fromkeys(LABELS, 1.5), "visual": dict.fromkeys(LABELS, -0.5)},
        modalities=("text", "visual"),
        left_out={"audio": "no audio track"},
        faces_found=1,
        frames_seen=2,
        text=HOSTILE,
        faces=(SeenFace(start + 0.5, BOX, 0.99),),
    )


ANSWERS = [answer(0, (0.9, 0.1, 0.2)), answer(1, (0.2, 0.7, 0.1)), answer(2, (0.1, 0.2, 0.3))]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a grey picture of odd size, with a tone."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with av.open(path, "w") as out:
        video, sound = out.add_stream("libx264", rate=10), out.add_stream("aac", rate=16000, layout="mono")
        video.width, video.height, video.pix_fmt = 321, 240, "yuv444p"
        for _ in range(30):
            grey = np.full((240, 321, 3), 90, np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        tone = (0.2 * np.sin(np.arange(48000) / 5)).astype(np.float32)[None]
        for i in range(0, 48000, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, i : i + 1024]), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, i
            out.mux(sound.encode(frame))
        out.mux(video.encode(None))
        out.mux(sound.encode(None))
    return path


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    from mmx.runtime.bundle import Bundle

    return replace(Bundle.open(tiny_bundle).manifest, labels=LABELS, thresholds=tuple(THRESHOLDS.values()))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real headless Chromium (Debian: chromium and chromium-driver)."""
    webdriver = pytest.importorskip("selenium.webdriver")
    common = pytest.importorskip("selenium.common")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    for argument in ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    except common.WebDriverException as e:
        pytest.skip(f"Chromium does not start here: {e.msg}")
    with opened:
        yield opened


def embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def test_the_report_holds_the_answers_and_asks_nobody(video: Path, manifest: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    write_report(out, manifest, [FileAnswers(video, ANSWERS), FileAnswers(tmp_path / "gone.mp4", [], "it is gone")])
    page = out.read_text()
    report = embedded(page)
    first, second = report["files"]
    assert report["model"]["thresholds"] == THRESHOLDS
    assert [Prediction.from_dict(each) for each in first["segments"]] == ANSWERS
    assert first["segments"][0]["text"] == HOSTILE and first["media"].startswith("data:video/mp4;base64,")
    assert second == {"name": "gone.mp4", "media": None, "segments": [], "error": "it is gone"}
    assert not re.search(r"https?:|@import|url\(|<link|<script src", page)  # no asset from outside
    assert [each.name for each in tmp_path.iterdir()] == ["out.html"]


def test_a_large_video_is_linked(manifest: Manifest, tmp_path: Path) -> None:
    large = tmp_path / "a video #1.mp4"
    with large.open("wb") as file:
        file.truncate(EMBED_BYTES + 1)
    (tmp_path / "reports").mkdir()
    out = tmp_path / "reports" / "out.html"
    write_report(out, manifest, [FileAnswers(large, ANSWERS)])
    assert embedded(out.read_text())["files"][0]["media"] == "../a%20video%20%231.mp4"


def test_the_report_in_a_browser(browser: Any, video: Path, manifest: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    write_report(out, manifest, [FileAnswers(video, ANSWERS)])
    browser.get(out.as_uri())
    by_css = "css selector"
    segments = browser.find_elements(by_css, ".segment")
    assert [each.text for each in segments] == ["ang", "hap", "–"]
    detail = browser.find_element(by_css, ".detail")
    assert HOSTILE in detail.text and "audio left out: no audio track" in detail.text and browser.title == "Emotions"
    until(lambda: browser.execute_script("return document.querySelector('video').readyState") > 0, "the video")
    segments[0].click()
    segments[0].send_keys("\ue014")  # right arrow
    until(lambda: segments[1].get_attribute("aria-current") == "true", "the next segment")
    assert "hap" in detail.find_element(by_css, "h2").text
    assert browser.execute_script("return document.querySelector('video').currentTime") == pytest.approx(
        1.001, abs=0.01
    )
    browser.execute_script("document.querySelector('video').currentTime = 1.5")

    def box() -> list[float]:
        return browser.execute_script(
            "const face = document.querySelector('.face').getBoundingClientRect(), v = document.querySelector('video')"
            ".getBoundingClientRect(); return [(face.left - v.left) / v.width, (face.bottom - v.top) / v.height]"
        )

    until(lambda: box() == pytest.approx([0.25, 0.75], abs=0.01), "the box around the face")
    browser.set_window_size(420, 900)  # a phone: nothing reaches out to the side
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser.set_window_size(1200, 900)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_page_of_the_server(browser: Any, server: Any, video: Path) -> None:
    """A video is chosen, sent, answered and shown; what is shown is what the server says of the same file."""
    answered = server.post(files={"video": video.read_bytes()}, data={"window": "1"}).json()["segments"]
    browser.get(server.url)
    browser.find_element("id", "file").send_keys(str(video))
    browser.find_element("css selector", "#window option[value='1']").click()
    assert ask(browser) == "Done: 3 segments."
    shown = browser.execute_script("return answers")
    for mine, theirs in zip(shown, answered, strict=True):
        assert {**mine, "timings_ms": {}} == {**theirs, "timings_ms": {}}
    assert len(browser.find_elements("css selector", ".segment")) == 3
    assert browser.execute_script("return document.querySelector('video').videoWidth") > 0  # it plays what was sent
    browser.set_window_size(420, 900)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser.set_window_size(1200, 900)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_camera_of_the_page(browser: Any, server: Any) -> None:
    """Chromium's own false camera and microphone, driven by the keyboard: each step leaves the focus on the next."""
    browser.get(server.url)
    browser.execute_script("document.getElementById('camera').focus()")
    browser.switch_to.active_element.send_keys("\ue007")
    recorded = "return document.querySelector('video')?.currentTime ?? 0"
    until(lambda: browser.execute_script(recorded) > 1, "a second of recording")
    assert browser.switch_to.active_element.get_attribute("id") == "stop"
    browser.switch_to.active_element.send_keys("\ue007")
    until(lambda: browser.find_element("id", "go").is_enabled(), "the recording's end")
    assert browser.switch_to.active_element.get_attribute("id") == "go"
    assert ask(browser).startswith("Done: ")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def ask(browser: Any) -> str:
    """Press Enter on the button; what the page says when it is done."""
    browser.find_element("id", "go").send_keys("\ue007")
    status = browser.find_element("id", "status")
    until(lambda: status.text.startswith("Done") or "warn" in status.get_attribute("class"), "the answer")
    return status.text


def test_the_box_moves_between_frames_and_ends_with_its_stretch() -> None:
    faces = [
        SeenFace(1.0, (0.0, 0.0, 0.2, 0.2), 1.0),
        SeenFace(1.5, (0.5, 0.5, 0.7, 0.7), 1.0),
        SeenFace(9.0, BOX, 1.0),
    ]
    assert face_at(faces, 1.25) == pytest.approx((0.25, 0.25, 0.45, 0.45))
    assert face_at(faces, 1.7) == faces[1].box and face_at(faces, 8.8) == BOX and face_at(faces, 0.8) == faces[0].box
    assert face_at(faces, 3.0) is None and face_at(faces, 9.5) is None and face_at([], 1.0) is None


def test_the_answers_are_drawn_into_the_video(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn.mp4"
    burn(video, out, ANSWERS, THRESHOLDS)
    assert [each.name for each in tmp_path.iterdir()] == ["drawn.mp4"]
    with av.open(out) as drawn:
        frames = [(frame.time, frame.to_ndarray(format="rgb24").astype(int)) for frame in drawn.decode(video=0)]
    with av.open(out) as drawn:
        heard = sum(frame.samples for frame in drawn.decode(audio=0))
    assert len(frames) == 30 and frames[-1][0] == pytest.approx(2.9, abs=0.01) and frames[0][1].shape == (240, 320, 3)
    assert heard / 48000 == pytest.approx(3.0, abs=0.1)

    def yellow(rgb: np.ndarray) -> np.ndarray:
        return (rgb[..., 0] > 170) & (rgb[..., 1] > 140) & (rgb[..., 2] < 130)

    with_face, without_over = frames[5][1], frames[25][1]
    rows, columns = np.nonzero(yellow(with_face)[:170, 100:])
    assert abs(rows.min() - 60) <= 3 and abs(columns.max() + 100 - 240) <= 3  # the box at its fractions of the picture
    assert yellow(with_face)[170:, :80].any() and not yellow(without_over)[180:, :79].any()  # bars over their threshold


def test_sound_cannot_be_drawn_on(tone: Path, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="no picture"):
        burn(tone, tmp_path / "x.mp4", [], THRESHOLDS)
    assert not list(tmp_path.iterdir())
