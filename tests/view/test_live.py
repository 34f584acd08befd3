"""Live answers at a terminal: drawn over one another, and as lines elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from mmx.runtime.live.session import LivePrediction
from mmx.runtime.prediction import Prediction
from mmx.view.live import LiveView

LABELS = ("ang", "hap")


def answer(end: float, hap: float, person: int | None = None) -> LivePrediction:
    values = {"ang": 0.1, "hap": hap}
    labels = ("hap",) if hap > 0.5 else ()
    shown = Prediction("cam", end - 3, end, values, labels, values, {}, {}, ("visual",), {}, 6, 6, None, person=person)
    return LivePrediction(shown, 0.12, 3, 0, 1)


def shown(terminal: bool, *answers: LivePrediction) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, color_system=None, highlight=False)
    with LiveView(LABELS, "[cam]", console) as view:
        for each in answers:
            view.show(each)
    return out.getvalue()


def test_a_line_for_each_where_there_is_no_terminal() -> None:
    first, second = shown(False, answer(3.0, 0.8), replace(answer(3.5, 0.2), lag_s=None)).splitlines()
    assert "0.00-3.00 s  hap 0.80*, ang 0.10  (0.12 s behind, 3 frames dropped, 1 times lost)" in first
    assert "0.50-3.50 s  hap 0.20, ang 0.10  (3 frames dropped, 1 times lost)" in second


def test_the_newest_is_drawn_with_those_before_it() -> None:
    text = shown(True, answer(3.0, 0.0), answer(3.5, 1.0))
    newest = text[text.rindex("0.5-3.5 s") :]
    assert "[cam]" in text and "emotions: hap" in newest
    (row,) = [line for line in newest.splitlines() if "100%*" in line]
    assert "█" * 24 in row and " █" in row.rpartition("*")[2]  # the strip: nothing, then all


def test_each_person_has_bars_of_their_own() -> None:
    text = shown(True, answer(3.0, 0.8, 1), answer(3.0, 0.2, 2), answer(3.5, 0.9, 1), answer(3.5, 0.3, 2))
    newest = text[text.rindex("0.5-3.5 s") :]
    assert newest.index("person 1") < newest.index("90%*") < newest.index("person 2") < newest.index("30%")
