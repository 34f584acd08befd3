"""The picture of the page in the README: python demo/picture.py BUNDLE CLIPS OUT.png

Joins the clips of ``mmx synth`` into one video, sends it through the page of ``mmx serve`` in a headless
Chromium (selenium, chromium and chromium-driver must be installed), and saves a screenshot of the answers.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, UsageError
from mmx.runtime.files import write_bytes

WIDTH, HEIGHT = 900, 1400
PATIENCE_S = 120
RATE = 16000
FRAME_IS_SHOWN = "const video = document.querySelector('video'); return !video.seeking && video.readyState > 1"


def main(arguments: Sequence[str]) -> int:
    """Make the picture. Exit codes are mmx's own."""
    try:
        if len(arguments) != 3:
            raise UsageError("usage: python demo/picture.py BUNDLE CLIPS OUT.png")
        bundle, clips, out = map(Path, arguments)
        files = sorted(clips.glob("*.mp4"))
        if not bundle.is_dir() or not files:
            raise BadDataError(f"{bundle} or the clips in {clips} are missing", "make demo makes both")
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder) / "clips.mp4"
            transcript = join(files, video)
            with serving(bundle) as url:
                write_bytes(out, screenshot(url, video, transcript))
    except MmxError as e:
        print(f"demo/picture.py: {e.message}; {e.hint}", file=sys.stderr)
        return e.exit_code
    return 0


def join(files: Sequence[Path], out: Path) -> str:
    """Encode the clips one after the other into ``out``. Returns their transcripts as WebVTT."""
    cues, shown, heard, start = ["WEBVTT\n"], 0, 0, 0.0
    with av.open(str(out), "w") as made:
        first = av.open(str(files[0])).streams.video[0]
        rate = first.average_rate
        picture, sound = made.add_stream("libx264", rate=rate), made.add_stream("aac", rate=RATE, layout="mono")
        picture.width, picture.height, picture.pix_fmt = first.width, first.height, "yuv420p"
        for file in files:
            with av.open(str(file)) as clip:
                for frame in clip.decode(video=0):
                    frame.pts, frame.time_base, shown = shown, 1 / rate, shown + 1
                    made.mux(picture.encode(frame))
            with av.open(str(file)) as clip:
                resampler = av.AudioResampler("fltp", "mono", RATE)
                for frame in (piece for whole in clip.decode(audio=0) for piece in resampler.resample(whole)):
                    frame.pts, frame.time_base, heard = heard, Fraction(1, RATE), heard + frame.samples
                    made.mux(sound.encode(frame))
            end = float(shown / rate)
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, max(1, round(end * RATE) - heard)), np.float32), "fltp", "mono"
            )
            silence.sample_rate, silence.pts, silence.time_base = RATE, heard, Fraction(1, RATE)
            made.mux(sound.encode(silence))
            heard += silence.samples
            cues.append(f"{_clock(start)} --> {_clock(end)}\n{file.with_suffix('.txt').read_text().strip()}\n")
            start = end
        made.mux([*picture.encode(None), *sound.encode(None)])
    return "\n".join(cues)


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """``mmx serve`` on a free port of this machine; gives its address."""
    command = [str(Path(sysconfig.get_path("scripts")) / "mmx"), "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                if found := re.search(r"http://[\w.]+:\d+", line):
                    yield found[0]
                    return
            raise EnvironmentMissing("mmx serve ended before it served", f"run it by hand: {' '.join(command)}")
        finally:
            server.terminate()


def screenshot(url: str, video: Path, transcript: str) -> bytes:
    """The page with the answers for a video, as PNG."""
    try:
        from selenium import webdriver
        from selenium.webdriver.support.ui import WebDriverWait
    except ImportError as e:
        raise EnvironmentMissing("selenium is not installed", "pip install selenium") from e
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        raise EnvironmentMissing("Chromium is not installed", "apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        browser.get(url)
        browser.execute_script("document.querySelector('details').open = true")
        browser.find_element("id", "file").send_keys(str(video))
        browser.find_element("id", "transcript").send_keys(transcript)
        browser.find_element("css selector", "#window option[value='utterance']").click()
        browser.find_element("id", "go").click()
        WebDriverWait(browser, PATIENCE_S).until(_done)
        browser.execute_script("document.querySelector('details').open = false")
        browser.find_elements("css selector", ".segment")[3].click()
        WebDriverWait(browser, PATIENCE_S).until(lambda it: it.execute_script(FRAME_IS_SHOWN))
        return browser.find_element("id", "view").screenshot_as_png


def _done(browser: Any) -> bool:
    status = browser.find_element("id", "status")
    if "warn" in status.get_attribute("class"):
        raise BadDataError(f"the page says: {status.text}")
    return status.text.startswith("Done")


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60):02}:{seconds % 60:06.3f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
