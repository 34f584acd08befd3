"""``Prediction`` in its forms: JSON, Arrow, pandas, HTML, and the published schemas."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pyarrow as pa
import pytest

from mmx.runtime.errors import BadDataError, EnvironmentMissing
from mmx.runtime.prediction import (
    SCHEMA_VERSION,
    Prediction,
    SeenFace,
    arrow_row,
    arrow_schema,
    main,
    prediction_schema,
    to_pandas,
)

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
LABELS, MODALITIES = ("hap", "sad"), ("text", "audio")
FULL = Prediction(
    file="talk.mp4",
    start=0.0,
    end=2.5,
    probabilities={"hap": 0.75, "sad": 0.25},
    labels=("hap",),
    logits={"hap": 1.1, "sad": -1.1},
    modality_logits={"text": {"hap": 1.0, "sad": -1.0}, "audio": {"hap": 0.1, "sad": -0.1}},
    contributions={"text": {"hap": 1.0, "sad": -1.0}, "audio": {"hap": 0.1, "sad": -0.1}},
    modalities=("text", "audio"),
    left_out={"visual": "no face in 5 frames"},
    faces_found=1,
    frames_seen=5,
    text="so <glad>",
    timings_ms={"decode": 1.5},
    flags=("no_face", "truncated_text"),
    faces=(SeenFace(0.5, (0.1, 0.2, 0.3, 0.4), 0.99),),
    calibrated=True,
    quality={"sound_dbfs": -23.5},
    thresholds={"hap": 0.5, "sad": 0.4},
    uncertain="the most probable label has 75.0%, under the 80.0% asked for",
)
EMPTY = Prediction("x", 0.0, 1.0, {}, (), {}, {}, {}, (), {"text": "no transcript"}, 0, 0, None)


@pytest.mark.parametrize("prediction", [FULL, EMPTY], ids=["full", "empty"])
def test_json_and_back(prediction: Prediction) -> None:
    line = prediction.to_json()
    assert line.isascii() and "\n" not in line
    plain = json.loads(line)
    assert plain == prediction.to_dict()
    assert list(plain) == ["schema_version", *(each.name for each in fields(Prediction))]
    assert Prediction.from_dict(plain) == prediction
    jsonschema.validate(plain, prediction_schema())


def test_a_file_name_that_is_not_unicode_survives() -> None:
    odd = replace(FULL, file="b\udcff.mp4")
    assert Prediction.from_dict(json.loads(odd.to_json())).file == "b\udcff.mp4"
    table = pa.Table.from_pylist([arrow_row(odd)], arrow_schema())
    assert table["file"].to_pylist() == ["b\\udcff.mp4"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema_version 2"),
        ({"start": "0"}, "start"),
        ({"mood": 1}, "mood"),
        ({"faces": [{"time": 1.0}]}, "box"),
    ],
)
def test_what_is_no_prediction_is_rejected_by_name(change: dict, said: str) -> None:
    with pytest.raises(BadDataError, match=said):
        Prediction.from_dict(FULL.to_dict() | change)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [("start", "0"), ("labels", "hap"), ("probabilities", {"hap": "high"}), ("text", 3), ("faces", [{"time": 1.0}])],
)
def test_the_json_schema_is_strict(path: str, wrong: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(FULL.to_dict() | {path: wrong}, prediction_schema())
    missing = FULL.to_dict()
    del missing[path]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(missing, prediction_schema())


def test_the_published_schemas_are_those_of_the_class(capsys) -> None:
    for form, name in (("json", "prediction.schema.json"), ("arrow", "prediction.arrow.txt")):
        main([form])
        published = (SCHEMAS / name).read_text()
        assert published == capsys.readouterr().out, f"python -m mmx.runtime.prediction {form} > docs/schemas/{name}"
    jsonschema.Draft202012Validator.check_schema(prediction_schema())
    assert prediction_schema()["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    assert all("description" in each for each in prediction_schema()["properties"].values())


def test_arrow_keeps_every_value() -> None:
    known = arrow_schema(LABELS, ("text", "audio"))
    assert known.names == [each.name for each in fields(Prediction)]
    rows = pa.Table.from_pylist([arrow_row(FULL), arrow_row(EMPTY)], known).to_pylist()
    plain = FULL.to_dict()
    del plain["schema_version"]
    maps = {"left_out", "timings_ms", "quality"}
    assert {**rows[0], **{name: dict(rows[0][name]) for name in maps}} == plain
    assert rows[1]["probabilities"] is None and rows[1]["logits"] is None

    maps |= {"probabilities", "logits"}
    row = pa.Table.from_pylist([arrow_row(FULL)], arrow_schema()).to_pylist()[0]
    assert {name: dict(row[name]) for name in maps} == {name: plain[name] for name in maps}
    assert {m: dict(values) for m, values in row["modality_logits"]} == plain["modality_logits"]


def test_pandas_has_a_row_for_each_and_flat_columns() -> None:
    frame = to_pandas([FULL, EMPTY])
    assert len(frame) == 2
    first = frame.iloc[0]
    assert first["probabilities.hap"] == 0.75 and first["contributions.audio.sad"] == -0.1
    assert first["labels"] == "hap" and first["flags"] == "no_face;truncated_text"
    assert frame.iloc[1].isna()["probabilities.hap"] and frame["text"].isna().tolist() == [False, True]
    assert "faces" not in frame.columns and frame.map(lambda value: not isinstance(value, (list, dict))).all(axis=None)
    assert to_pandas([]).empty


def test_without_pandas_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(EnvironmentMissing, match=r"pip install .*\[pandas\]'"):
        to_pandas([FULL])


def test_repr_says_what_matters_on_one_line() -> None:
    assert repr(FULL) == "<Prediction 'talk.mp4' 0.00-2.50 s: hap 0.75, sad 0.25>"
    assert repr(EMPTY) == "<Prediction 'x' 0.00-1.00 s: no modality>"


def test_a_notebook_shows_it_and_runs_nothing_from_it() -> None:
    class Text(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[str] = []
            self.words = ""

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.tags.append(tag)

        def handle_data(self, data: str) -> None:
            self.words += data

    page = Text()
    hostile = replace(FULL, file="<script>alert(1)</script>", left_out={"visual": "<img src=x>"})
    page.feed(hostile._repr_html_())
    assert "script" not in page.tags and "img" not in page.tags and "glad" not in page.tags
    for shown in ("<script>alert(1)</script>", "so <glad>", "hap", "75.0%", "25.0%", "truncated_text"):
        assert shown in page.words
    assert page.tags.count("progress") == 2
