"""The server's JSON, as the OpenAPI document describes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from mmx.runtime.prediction import SCHEMA_VERSION

REF = "#/components/schemas/{model}"
Segment = Annotated[dict[str, Any], WithJsonSchema({"$ref": REF.format(model="Prediction")})]


class Schema(BaseModel):
    """What is not listed here is not sent."""

    model_config = ConfigDict(extra="forbid")


class Answer(Schema):
    """All segments of a file, in order."""

    schema_version: int = Field(SCHEMA_VERSION, description="Of the segments.")
    segments: list[Segment]


class ErrorDetail(Schema):
    """Why a request was rejected or given up."""

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


class Card(Schema):
    """The model card in short; the whole is README.md of the bundle."""

    intended_use: list[str]
    not_for: list[str]
    limits: list[str]
    law: str


class ModelInfo(Schema):
    """What answers here."""

    description: str = Field(description="The system and its labels, in words.")
    system: str
    form: str
    dataset: str
    labels: list[str]
    thresholds: dict[str, float] = Field(
        description="Above which a label is given, of predictions from all modalities; each prediction has its own."
    )
    calibrated: bool = Field(description="Whether probabilities were calibrated, and the thresholds with them.")
    modalities: list[str] = Field(description="In the order of the fusion.")
    fusion_weights: dict[str, float]
    preprocessing: dict[str, Any] = Field(description="From media to tensors, as the bundle's manifest has it.")
    backend: dict[str, str] = Field(description="name, precision, device, and why this one.")
    versions: dict[str, str] = Field(description="This server's mmx, and those the bundle was made with.")
    graph_sha256: str
    warnings: list[str] = Field(description="Why its answers must not be believed, for people; mostly empty.")
    card: Card
    recogniser: str | None = Field(description="The speech model for files without a transcript; null: none.")
    limits: Capacity
