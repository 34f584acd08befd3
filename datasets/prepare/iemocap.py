"""The raw IEMOCAP release: which utterances each dialogue has, with their labels, times and words.

    Session{1..5}/dialog/avi/DivX/D.avi           both speakers side by side, 720x480
    Session{1..5}/dialog/wav/D.wav                one channel for each speaker
    Session{1..5}/dialog/transcriptions/D.txt     "U [241.6700-243.4048]: words"
    Session{1..5}/dialog/EmoEvaluation/D.txt      "[6.2901 - 8.2357]<tab>U<tab>neu<tab>[2.5000, 2.5000, 2.5000]"

Label and times are those of the evaluation; the transcript gives the words only.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmx.datasets.prepare.plan import SAFE_NAME, Compat, Plan, Task, Utterance, times_fault
from mmx.datasets.prepare.text_files import files_in, read_lines
from mmx.runtime.errors import BadDataError

TRAINED = ("ang", "exc", "fru", "hap", "neu", "sad")
_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_BLOCK = re.compile(rf"\[\s*{_NUMBER}\s*-\s*{_NUMBER}\s*\]\s+(\S+)\s+([A-Za-z]+)(?:\s.*)?")


def speaker_of(utterance: str) -> str:
    """Who speaks: the session and F or M, such as ``Ses01F``."""
    return utterance[:5] + utterance.split("_")[-1][:1]


def group_folder(utterance: str) -> str:
    """The folder above an utterance's own: the first two parts of its name."""
    return "_".join(utterance.split("_")[:2])


def read_release(release: Path, compat: Compat) -> Plan:
    """The dialogues of a release and their utterances.

    Raises:
        BadDataError: there is no session in ``release``.
    """
    root = next((place for place in (release, release / "IEMOCAP_full_release") if _sessions(place)), None)
    if root is None:
        raise BadDataError(
            f"{release} holds no Session1 to Session5 with dialog/EmoEvaluation", "name the folder IEMOCAP_full_release"
        )
    plan = Plan(root)
    seen: set[str] = set()
    for session in _sessions(root):
        dialog = session / "dialog"
        names = {path.stem for path in files_in(dialog / "EmoEvaluation", "*.txt")}
        others = {path.stem for path in [*files_in(dialog / "avi/DivX", "*.avi"), *files_in(dialog / "wav", "*.wav")]}
        for name in sorted(others - names):
            plan.leave_out(name, f"no evaluation {_short(dialog / 'EmoEvaluation' / f'{name}.txt', root)}")
        for name in sorted(names):
            if name in seen:
                plan.leave_out(name, f"{session.name} has a dialogue of a name that was there before")
                continue
            seen.add(name)
            _read_dialogue(dialog, name, root, compat, plan)
    return plan


def _sessions(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("Session*") if (path / "dialog").is_dir())


def _short(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _read_dialogue(dialog: Path, name: str, root: Path, compat: Compat, plan: Plan) -> None:
    """Add one dialogue to the plan, or say why it is left out."""
    evaluation, transcript = dialog / "EmoEvaluation" / f"{name}.txt", dialog / "transcriptions" / f"{name}.txt"
    video, audio = dialog / "avi/DivX" / f"{name}.avi", dialog / "wav" / f"{name}.wav"
    try:
        blocks = _read_evaluation(evaluation, name, _short(evaluation, root), plan)
    except BadDataError as e:
        plan.leave_out(name, e.message)
        return
    if not blocks:
        plan.leave_out(name, f"{_short(evaluation, root)} has no utterance")
        return
    missing = [_short(path, root) for path in (video, audio) if not path.is_file()]
    texts: dict[str, str] = {}
    try:
        texts = (_upstream_texts if compat == "upstream" else _texts)(read_lines(transcript))
    except BadDataError as e:
        missing.append(e.message.removesuffix(" is missing"))
    if missing:
        for utterance in blocks:
            plan.leave_out(utterance, f"missing or unreadable: {', '.join(missing)}")
        return
    utterances = []
    for utterance, (start, end, label) in blocks.items():
        if utterance in texts:
            utterances.append(Utterance(utterance, start, end, texts[utterance], label))
        else:
            plan.leave_out(utterance, "no line in the transcript")
    said = {item.what for item in plan.left_out}
    for utterance in sorted(texts.keys() - blocks.keys() - said):
        if re.fullmatch(rf"{re.escape(name)}_[FM]\d+", utterance):
            plan.leave_out(utterance, "no evaluation")
    if utterances:
        plan.tasks.append(Task(name, video, audio, tuple(utterances)))


def _read_evaluation(path: Path, dialogue: str, shown: str, plan: Plan) -> dict[str, tuple[float, float, str]]:
    """Start, end and label of each utterance. Of one that is there twice, the last."""
    blocks: dict[str, tuple[float, float, str]] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.startswith("["):  # the heading, and the raters' own lines
            continue
        match = _BLOCK.fullmatch(line.rstrip())
        if match is None:
            plan.leave_out(f"{shown} line {number}", f"not an evaluation: {line.strip()[:60]!r}")
            continue
        start, end, name, label = float(match[1]), float(match[2]), match[3], match[4]
        if fault := times_fault(start, end):
            plan.leave_out(name[:200], fault)
        elif not (
            name.startswith(f"{dialogue}_")
            and SAFE_NAME.fullmatch(name)
            and name[len(dialogue) + 1 :][:1] in ("F", "M")
        ):
            plan.leave_out(f"{shown} line {number}", f"{name[:60]!r} is no utterance of {dialogue}")
        else:
            if name in blocks:
                plan.leave_out(f"{shown} line {number}", f"{name} is there twice; the last one counts")
            blocks[name] = (start, end, label)
    return blocks


def _texts(lines: list[str]) -> dict[str, str]:
    """The words of each utterance: what follows the first ``]:``."""
    texts = {}
    for line in lines:
        head, separator, words = line.partition("]:")
        if separator and head.split():
            texts[head.split("[")[0].strip()] = words.strip()
    return texts


def _upstream_texts(lines: list[str]) -> dict[str, str]:
    """The words as the public notebook takes them: what follows the last colon, so it loses all before it."""
    return {
        parts[0].split(" ")[0]: parts[-1].strip()
        for parts in (line.split(":") for line in lines)
        if "_" in parts[0].split(" ")[0] and (len(parts) > 1 or " " in parts[0])
    }
