"""``Prediction``: the result for one segment, and its forms: JSON, Arrow, flat columns, HTML.

``mmx predict``, ``batch``, ``serve``, the Ray workers, the Triton model and the HTML report all write ``to_dict()``.
``python -m mmx.runtime.prediction json|arrow`` prints the schemas, which docs/schemas/ holds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from mmx.runtime.errors import BadDataError, UsageError, missing_extra
from mmx.runtime.from_json import from_plain
from mmx.runtime.schema import KeyedBy, arrow_fields, described, json_schema, to_plain

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa

SCHEMA_VERSION = 1
"""Of a prediction in every form. Fields may be added within a version, not renamed or removed."""

ByLabel = Annotated[dict[str, float], KeyedBy("label")]
ByModality = Annotated[dict[str, ByLabel], KeyedBy("modality")]


@dataclass(frozen=True)
class SeenFace:
    """A face in one frame."""

    time: float = described("Seconds from the start of the file.")
    box: tuple[float, float, float, float] = described("Left, top, right, bottom in fractions of the frame, 0..1.")
    probability: float = described("The detector's, 0..1.")
    person: int | None = described("Whose it is: people are numbered as they appear in the file, from 1.", default=None)


@dataclass(frozen=True)
class Word:
    """One recognised word, with its punctuation."""

    start: float = described("Seconds from the start of the file.")
    end: float = described("Seconds from the start of the file.")
    text: str = described("The word; empty for speech whose words were not recognised.")
    probability: float = described("The recogniser's, 0..1.")


@dataclass(frozen=True, repr=False)
class Prediction:
    """The result for one segment of one file."""

    file: str = described("The media file as the caller gave it; 'video' where it has no name (server, Triton).")
    start: float = described("Start of the segment, in seconds from the start of the file.")
    end: float = described("End of the segment, in seconds.")
    probabilities: ByLabel = described(
        "By label, 0..1: sigmoid of the fused logit, scaled and shifted first if calibrated; empty if no modality took "
        "part."
    )
    labels: tuple[str, ...] = described(
        "Labels whose probability is above their threshold, most probable first; none where uncertain."
    )
    logits: ByLabel = described("The fused logits, by label.")
    modality_logits: ByModality = described("The logits of each modality that took part, by modality and label.")
    contributions: ByModality = described("Fusion weight times logit; over the modalities they sum to logits.")
    modalities: tuple[str, ...] = described("The modalities that took part in the fusion, in the system's order.")
    left_out: dict[str, str] = described("Why each of the system's other modalities did not take part.")
    faces_found: int = described("Frames with a face that is used.")
    frames_seen: int = described("Frames looked at.")
    text: str | None = described("The transcript of the segment; null if there was none.")
    timings_ms: dict[str, float] = described(
        "Milliseconds by stage (decode, faces, mel, text, network).", default_factory=dict
    )
    flags: tuple[str, ...] = described(
        "Quality flags such as no_face or truncated_text; docs/predict.md lists them.", default=()
    )
    faces: tuple[SeenFace, ...] = described(
        "The face of each frame that is used, in time order: the largest one, or as people were chosen.", default=()
    )
    calibrated: bool = described("Whether the probabilities are calibrated on validation data.", default=False)
    thresholds: ByLabel = described("The threshold of each label's probability, 0..1.", default_factory=dict)
    uncertain: str | None = described("Why no label is given; null where nothing was asked or it is met.", default=None)
    quality: dict[str, float] = described(
        "Numbers that say how good sound and faces are; docs/trust.md lists them.", default_factory=dict
    )
    words: tuple[Word, ...] = described("The recognised words that text is made of; none if it was given.", default=())
    recogniser: str | None = described("The speech model that was used; null if there was none.", default=None)
    language: str | None = described("What is spoken (ISO 639-1); null if that is not known.", default=None)
    language_probability: float | None = described("How sure that is, 0..1; 1 if it was given.", default=None)
    video_tracks: int = described("Video tracks of the file, cover pictures not counted; one is read.", default=0)
    audio_tracks: int = described("Audio tracks of the file; one is read.", default=0)
    person: int | None = described(
        "Whose face it is, by number in the file; null without a face, or if it is not always the same person's.",
        default=None,
    )
    others: tuple[SeenFace, ...] = described(
        "Faces of other people in those frames, which are not used; none where each person has a prediction.",
        default=(),
    )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values, with ``schema_version`` first. ``from_dict`` gives the prediction back."""
        return {"schema_version": SCHEMA_VERSION, **to_plain(self)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Prediction:
        """The prediction that ``to_dict`` wrote.

        Raises:
            BadDataError: another ``schema_version``, or a field that is missing, unknown or of the wrong type.
        """
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != SCHEMA_VERSION:
            raise BadDataError(
                f"a prediction has schema_version {version!r}; this mmx reads {SCHEMA_VERSION}",
                "use the mmx that wrote it",
            )
        rest = {name: item for name, item in value.items() if name != "schema_version"}
        prediction: Prediction = from_plain(cls, rest, "a prediction")
        return prediction

    def to_json(self) -> str:
        """``to_dict`` on one line. ASCII, so that it is the same in every locale and file names that are not Unicode
        survive; never NaN or Infinity.
        """
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_flat(self) -> dict[str, Any]:
        """``to_dict`` as one row of a table: names inside others are joined by dots (``probabilities.hap``), lists of
        words by semicolons. Lists of objects (``faces``) are left out.
        """
        plain = self.to_dict()
        return dict(_flat("", {name: plain[name] for name in plain if name not in _lists_of_objects()}))

    @classmethod
    def flat_columns(
        cls, labels: Sequence[str], modalities: Sequence[str], keys: Mapping[str, Sequence[str]]
    ) -> list[str]:
        """The names that ``to_flat`` can give, for a table whose columns must be known beforehand.

        Args:
            labels, modalities: of the bundle. keys: of the fields that hold other names, by field.
        """
        pairs = [f"{modality}.{label}" for modality in modalities for label in labels]
        inner = {ByLabel: labels, ByModality: pairs}
        keys = {"left_out": modalities, **keys}
        columns: list[str] = []
        for name, kind in get_type_hints(cls, include_extras=True).items():
            if name not in _lists_of_objects():
                names = inner.get(kind, keys.get(name))
                columns += [name] if names is None else [f"{name}.{key}" for key in names]
        return columns

    @property
    def tracks(self) -> str | None:
        """How many tracks the file has, in words, where there was a choice; None where there was not."""
        counts = [(self.video_tracks, "video"), (self.audio_tracks, "audio")]
        several = [f"{count} {kind}" for count, kind in counts if count > 1]
        return f"{' and '.join(several)} tracks in the file; one of each is read" if several else None

    def __repr__(self) -> str:
        ranked = sorted(self.probabilities.items(), key=lambda each: -each[1])
        shown = ", ".join(f"{label} {value:.2f}" for label, value in ranked) or "no modality"
        return f"<Prediction {self.file!r} {self.start:.2f}-{self.end:.2f} s: {shown}>"

    def _repr_html_(self) -> str:
        """For notebooks: a bar for each label; those above their threshold are bold."""
        from html import escape

        rows = []
        for label, probability in self.probabilities.items():
            name = escape(label)
            name = f"<b>{name}</b>" if label in self.labels else name
            rows.append(
                f"<tr><td>{name}</td><td><progress max='1' value='{probability:.4f}'></progress></td>"
                f"<td>{probability:.1%}</td></tr>"
            )
        title = f"{self.file}, {self.start:.2f}-{self.end:.2f} s"
        words = f"<br>{escape(self.text)}" if self.text else ""
        notes = [f"{name} left out: {why}" for name, why in self.left_out.items()] + list(self.flags)
        below = f"<small>{escape('; '.join(notes))}</small>" if notes else ""
        table = f"<table>{''.join(rows)}</table>" if rows else "<p>no modality took part</p>"
        return f"<div><b>{escape(title)}</b>{words}{table}{below}</div>"


def prediction_schema() -> dict[str, Any]:
    """The JSON Schema of ``Prediction.to_dict``."""
    schema = json_schema(Prediction)
    version = {"const": SCHEMA_VERSION, "description": "Fields may be added within a version."}
    schema["properties"] = {"schema_version": version, **schema["properties"]}
    schema["required"] = ["schema_version", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Prediction", **schema}


def arrow_schema(labels: Sequence[str] | None = None, modalities: Sequence[str] | None = None) -> pa.Schema:
    """The Arrow schema of predictions.

    Args:
        labels, modalities: of the bundle: values by label or modality are then structs, otherwise maps.

    Raises:
        EnvironmentMissing: pyarrow is not installed.
    """
    keys = {"label": labels, "modality": modalities}
    columns = arrow_fields(Prediction, {what: names for what, names in keys.items() if names is not None})
    import pyarrow as pa

    return pa.schema(columns, {"schema_version": str(SCHEMA_VERSION)})


def arrow_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction as ``pyarrow.Table.from_pylist`` takes it with ``arrow_schema``: unknown values are null.

    File names and words that are not Unicode have their odd bytes escaped: Arrow's strings are UTF-8.
    """
    plain = to_plain(prediction)
    for name in ("probabilities", "logits", "thresholds"):
        plain[name] = plain[name] or None
    for name in ("file", "text"):
        plain[name] = plain[name] and plain[name].encode(errors="backslashreplace").decode()
    return plain


def to_pandas(predictions: Prediction | Iterable[Prediction]) -> pandas.DataFrame:
    """A DataFrame with a row for each prediction; the columns are those of ``Prediction.to_flat``.

    Raises:
        EnvironmentMissing: pandas is not installed. UsageError: they are no predictions.
    """
    if not isinstance(predictions, Iterable):
        predictions = [predictions]
    try:
        import pandas
    except ModuleNotFoundError as e:
        raise missing_extra("pandas", "pandas") from e
    given = list(predictions)
    if not all(isinstance(prediction, Prediction) for prediction in given):
        raise UsageError("to_pandas takes a Prediction, or several", "give it what Predictor.predict yields")
    rows = [prediction.to_flat() for prediction in given]
    return pandas.DataFrame(rows) if rows else pandas.DataFrame(columns=[f.name for f in fields(Prediction)])


def _flat(prefix: str, value: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(f"{prefix}{name}.", item)
        else:
            yield prefix + name, ";".join(item) if isinstance(item, list) else item


@cache
def _lists_of_objects() -> frozenset[str]:
    properties = json_schema(Prediction)["properties"]
    return frozenset(name for name, each in properties.items() if each.get("items", {}).get("type") == "object")


def main(arguments: Sequence[str]) -> None:
    """Print the JSON Schema, or the Arrow schema with maps, as text."""
    if list(arguments) == ["arrow"]:
        print(arrow_schema().to_string(show_schema_metadata=False))
    else:
        print(json.dumps(prediction_schema(), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
