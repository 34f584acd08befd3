"""What the OpenAPI document says of /v1/predict, beyond what FastAPI finds out by itself."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mmx.runtime.prediction import prediction_schema
from mmx.serving.server.formats import JSON, NDJSON, SSE
from mmx.serving.server.schemas import REF, Answer, EndLine, ErrorBody
from mmx.serving.server.tensors import CONTENT_TYPE
from mmx.serving.server.upload import MULTIPART

MODELS: tuple[type[BaseModel], ...] = (Answer, EndLine, ErrorBody)
PREDICTION = {"$ref": REF.format(model="Prediction")}
REJECTIONS = {
    400: "The form or a parameter cannot be read (bad_form, bad_request).",
    401: "The server asks for an API key (no_key).",
    403: "The Host header is a foreign name (foreign_host).",
    406: "The Accept header takes no form that is offered (not_acceptable).",
    408: "The body came too slowly (slow_upload).",
    413: "Too many bytes, seconds, pixels or rows (too_large, too_long, too_many_pixels, too_many_rows).",
    415: "The body is neither a form nor tensors (bad_content_type).",
    422: "The media or tensors cannot be used (bad_media, bad_tensors, decoder_crashed, too_slow, too_much_memory).",
    429: "The queue is full (busy); Retry-After says when to come again.",
    500: "The server failed (server_error).",
    503: "The server is starting or shutting down (not_ready, shutting_down).",
    507: "There is no room for the upload (no_room); Retry-After says when to come again.",
    504: "No answer before the deadline (deadline).",
}
RETRY_AFTER = {"description": "Seconds to wait before the next try.", "schema": {"type": "integer", "minimum": 1}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}


def rejections(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of these statuses."""
    documented: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        documented[status] = {"description": REJECTIONS[status], "content": {JSON: {"schema": _ref(ErrorBody)}}}
        if status in (429, 503, 507):
            documented[status]["headers"] = {"Retry-After": RETRY_AFTER}
    return documented


def predict_operation() -> dict[str, Any]:
    """Body and responses of ``POST /v1/predict``."""
    line = {"anyOf": [PREDICTION, _ref(EndLine), _ref(ErrorBody)]}
    form = {
        "type": "object",
        "required": ["video"],
        "properties": {
            "video": {"type": "string", "format": "binary", "description": "A video or sound file."},
            "text": {"type": "string", "description": "What is said in the whole file."},
            "transcript": {
                "type": "string",
                "format": "binary",
                "description": "SubRip or WebVTT (each cue is one segment), or plain text. Not together with text.",
            },
            "segments": {
                "type": "string",
                "contentMediaType": JSON,
                "description": "Predict these segments and no others: a JSON list of {start, end, text}, in seconds; "
                "text may be null. Not together with text, transcript or window.",
            },
            "window": {
                "type": "string",
                "description": "Seconds of a segment, or 'utterance'.",
                "default": "utterance",
            },
            "people": {
                "type": "string",
                "description": "Whose face it is about: largest, left, right, center, region=X,Y,W,H (fractions of the "
                "frame), speaker, or each: a prediction for each person. By default as the server was started.",
            },
        },
    }
    tensors = {
        "type": "string",
        "format": "binary",
        "description": "A NumPy .npz archive of one sample, with any of token_ids int64 [tokens], faces float32 "
        "[faces, 3, 48, 48] in 0..255 and pieces float32 [pieces, 128, 32].",
    }
    answers = {
        JSON: {"schema": _ref(Answer)},
        NDJSON: {"schema": line},
        SSE: {
            "schema": {
                "type": "string",
                "description": "Events segment (data: Prediction), end (End) or error (ErrorDetail).",
            }
        },
    }
    return {
        "requestBody": {
            "required": True,
            "content": {MULTIPART: {"schema": form}, CONTENT_TYPE: {"schema": tensors}},
        },
        "responses": {
            "200": {"description": "All segments, or a stream of them as the Accept header asks.", "content": answers}
        },
    }


def complete(document: dict[str, Any], *, with_key: bool) -> dict[str, Any]:
    """The document with the schemas that the operations above refer to, and the API key where one is asked for."""
    _, schemas = models_json_schema([(model, "serialization") for model in MODELS], ref_template=REF)
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update({**schemas["$defs"], "Prediction": prediction_schema()})
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            if path.startswith("/v1/") or path == "/metrics":
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    return document
