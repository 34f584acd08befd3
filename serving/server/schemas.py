"""The server's JSON, as the OpenAPI document describes it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mmx.runtime.types import Prediction

SCHEMA_VERSION: Literal[1] = 1
ByLabel = dict[str, float]


class Schema(BaseModel):
    """What is not listed here is not sent."""

    model_config = ConfigDict(extra="forbid")


class FaceSeen(Schema):
    """The largest face of one frame."""

    time: float = Field(description="Seconds from the start of the file.")
    box: tuple[float, float, float, float] = Field(description="Left, top, right, bottom in fractions of the picture.")
    probability: float


class SegmentAnswer(Schema):
    """What the model says of one utterance or window: what ``mmx predict --json`` prints, but for the file's name."""

    schema_version: Literal[1] = SCHEMA_VERSION
    start: float = Field(description="Seconds from the start of the file.")
    end: float
    probabilities: ByLabel = Field(description="0..1 by label; empty if there was nothing to tell from.")
    labels: list[str] = Field(description="Labels over their threshold, most probable first.")
    logits: ByLabel = Field(description="Fused.")
    modality_logits: dict[str, ByLabel] = Field(description="Of each modality that took part.")
    contributions: dict[str, ByLabel] = Field(description="Fusion weight times logit; they sum to logits.")
    modalities: list[str] = Field(description="That took part, in the system's order.")
    left_out: dict[str, str] = Field(description="Why each of the others did not.")
    faces_found: int = Field(description="Frames with a face.")
    frames_seen: int
    text: str | None = Field(description="The transcript of the segment.")
    timings_ms: dict[str, float] = Field(description="Milliseconds by stage.")
    flags: list[str] = Field(description="Such as no_face or truncated_text; docs/predict.md lists them.")
    faces: list[FaceSeen]


class Answer(Schema):
    """All segments of a file, in order."""

    schema_version: Literal[1] = SCHEMA_VERSION
    segments: list[SegmentAnswer]


class ErrorDetail(Schema):
    """Why a request was refused or given up."""

    code: str = Field(description="One word for programs; docs/serving.md lists them.")
    message: str
    hint: str = Field(description="What to do; may be empty.")


class ErrorBody(Schema):
    """The body of every response that is no success."""

    error: ErrorDetail


class End(Schema):
    """How many segments the stream held."""

    segments: int


class EndLine(Schema):
    """The last line of a stream that is whole."""

    end: End


class Status(Schema):
    """ok, or ready."""

    status: Literal["ok", "ready"]


class Capacity(Schema):
    """What one request may hold."""

    upload_bytes: int
    media_s: float
    media_pixels: int
    deadline_s: float
    tokens: int
    faces: int
    pieces: int


class ModelInfo(Schema):
    """What answers here."""

    description: str = Field(description="The system and its labels, in words.")
    system: str
    form: str
    dataset: str
    labels: list[str]
    thresholds: ByLabel
    modalities: list[str] = Field(description="In the order of the fusion.")
    fusion_weights: ByLabel
    preprocessing: dict[str, Any] = Field(description="From media to tensors, as the bundle's manifest has it.")
    backend: dict[str, str] = Field(description="name, precision, device, and why this one.")
    versions: dict[str, str] = Field(description="This server's mmx, and those the bundle was made with.")
    graph_sha256: str
    limits: Capacity


def segment_json(prediction: Prediction) -> dict[str, Any]:
    """A prediction as ``SegmentAnswer`` has it: all of it but the file, which has no name here."""
    fields = {"schema_version": SCHEMA_VERSION, **asdict(prediction)}
    del fields["file"]
    fields["timings_ms"] = {stage: round(ms, 3) for stage, ms in prediction.timings_ms.items()}
    return fields
