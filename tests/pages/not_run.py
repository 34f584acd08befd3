"""The commands of the documentation that a test does not run, and why. Patterns are looked for from the beginning."""

from __future__ import annotations

import re

NOT_RUN = {
    # Anywhere.
    r"pip install|pip uninstall|uv (build|run|publish)": "changes the environment; .ci/extras.py installs every extra",
    r"docker|buildah|git ": "needs Docker or buildah, or changes the repository",
    r"make ": "what runs the tests themselves, or what CI runs",
    r"mmx (asr pull|pull|push|predict hf:)": "needs the Hugging Face Hub; tests/speech, tests/runtime",
    r"ffmpeg -f v4l2|mmx live ckpt.mmx (0|rtsp:)": "needs a camera",
    r"python studies/": "a study of minutes to hours; its results are in studies/results",
    r"mmx bench (iemocap|mosei)": "ten minutes; tests/bench runs it on tiny systems",
    r".*--backend tensorrt": "needs an NVIDIA GPU",
    # A synopsis, where words stand for what a reader puts there.
    r".*(\[-|\[ckpt|FILE\.\.\.|INPUTS|VIDEO\.\.\.|exact\|fast|DIR\b|\$seed)": "a synopsis, or a loop's body",
}


# Pages whose commands take minutes to hours, and where their options run on small data instead.
ELSEWHERE = {
    "docs/benchmark.md": "tests/bench",
    "docs/calibration.md": "tests/calibration",
    "docs/checkpoints.md": "tests/export and tests/models",
    "docs/iemocap.md": "tests/prepare and tests/training",
    "docs/own_data.md": "docs/jobs/own_labels.md, tests/datasets",
    "docs/prepare.md": "tests/prepare",
    "docs/training.md": "tests/training",
}


def reason(command: str) -> str | None:
    """Why this command is not run, or None."""
    words = command.partition("  #")[0]
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, words)), None)
