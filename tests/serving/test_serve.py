"""mmx serve as its clients meet it: the answers of mmx predict, in every form, and a reason for every rejection."""

from __future__ import annotations

import io
import json
import re
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mmx.cli.main import main
from mmx.runtime import Prediction, Predictor
from mmx.runtime.media.faces.resample import resize_opencv_area
from mmx.runtime.preprocess import Preprocessor
from mmx.runtime.types import Span
from mmx.serving.server import openapi
from mmx.serving.server.rejection import REJECTED

NDJSON, SSE = "application/x-ndjson", "text/event-stream"
VTT = "WEBVTT\n\n00:00.000 --> 00:01.500\nI am so glad.\n\n00:01.500 --> 00:03.000\nNo matter.\n"


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Iterator[Predictor]:
    with Predictor(tiny_bundle, backend="onnxruntime", threads=1) as opened:
        yield opened


def same(found: dict[str, Any], expected: Prediction) -> None:
    """Fail unless a segment of an answer is what the predictor says of the same file alone."""
    for name in ("start", "end", "faces_found", "frames_seen", "text"):
        assert found[name] == getattr(expected, name), name
    for name in ("labels", "modalities", "flags"):
        assert found[name] == list(getattr(expected, name)), name
    assert found["left_out"] == expected.left_out
    assert list(found["probabilities"]) == list(expected.probabilities)
    for name in ("probabilities", "logits"):
        assert found[name] == pytest.approx(getattr(expected, name), abs=2e-5), name
    for modality, logits in expected.contributions.items():
        assert found["contributions"][modality] == pytest.approx(logits, abs=2e-5)
    assert [face["time"] for face in found["faces"]] == [face.time for face in expected.faces]
    for face, seen in zip(found["faces"], expected.faces, strict=True):
        assert face["box"] == pytest.approx(seen.box, abs=1e-6)


def npz(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def test_a_video_with_text_in_one_document(server: Any, video: Path, predictor: Predictor) -> None:
    response = server.post(files={"video": video.read_bytes()}, data={"text": "I am so glad."})
    assert response.status_code == 200, response.text
    (segment,) = response.json()["segments"]
    (expected,) = predictor.predict(video, text="I am so glad.")
    same(segment, expected)
    assert Prediction.from_dict(segment).file == "video"
    assert segment["modalities"] == ["text", "visual", "audio"] and len(segment["faces"]) == 6
    total = {label: sum(part[label] for part in segment["contributions"].values()) for label in segment["logits"]}
    assert total == pytest.approx(segment["logits"], abs=1e-6)


@pytest.mark.parametrize("accept", [NDJSON, SSE])
def test_a_stream_has_each_segment_as_it_comes_and_says_where_it_ends(
    server: Any, video: Path, predictor: Predictor, tmp_path: Path, accept: str
) -> None:
    files = {"video": ("x", video.read_bytes()), "transcript": ("../../etc/passwd", VTT)}
    response = server.post(files=files, headers={"accept": accept})
    assert response.status_code == 200 and response.headers["content-type"].startswith(accept)
    if accept == NDJSON:
        *segments, last = map(json.loads, response.text.splitlines())
        assert last == {"end": {"segments": 2}}
    else:
        events = [event.split("\n") for event in response.text.strip().split("\n\n")]
        assert [event[0] for event in events] == ["event: segment", "event: segment", "event: end"]
        *segments, last = (json.loads(event[1].removeprefix("data: ")) for event in events)
        assert last == {"segments": 2}
    (tmp_path / "talk.vtt").write_text(VTT)
    for found, expected in zip(segments, predictor.predict(video, transcript=tmp_path / "talk.vtt"), strict=True):
        same(found, expected)


def test_only_the_asked_for_segments_are_predicted(server: Any, video: Path, predictor: Predictor) -> None:
    """As a page asks again with corrected words: with exact times, and with text that is known to be nothing."""
    spans = [Span(0.25, 1.1000000001, "No matter."), Span(2.0, 3.0, ""), Span(2.5, 2.75)]
    asked = json.dumps([vars(span) for span in spans])
    response = server.post(files={"video": video.read_bytes()}, data={"segments": asked})
    assert response.status_code == 200, response.text
    expected = list(predictor.predict(video, transcript=spans))
    assert [e.left_out.get("text") for e in expected] == [None, "no transcript", "no words in this segment"]
    for found, each in zip(response.json()["segments"], expected, strict=True):
        same(found, each)


def test_tensors_get_the_answer_of_the_file_they_came_from(server: Any, video: Path, predictor: Predictor) -> None:
    (segment,) = Preprocessor(predictor.bundle, threads=1).segments(video, text="No matter.")
    sample = segment.sample
    assert sample.token_ids is not None
    body = npz(token_ids=sample.token_ids, faces=sample.faces, pieces=sample.pieces)
    response = server.post(content=body, headers={"content-type": "application/x-npz"})
    assert response.status_code == 200, response.text
    (found,) = response.json()["segments"]
    (expected,) = predictor.predict(video, text="No matter.")
    assert found["logits"] == pytest.approx(expected.logits, abs=2e-5)
    only = server.post(content=npz(faces=sample.faces), headers={"content-type": "application/x-npz"}).json()
    assert only["segments"][0]["left_out"] == {"text": "not sent", "audio": "not sent"}


def hostile(kind: str) -> bytes:
    faces = np.zeros((1, 3, 48, 48), np.float32)
    if kind == "pickle":
        return npz(faces=np.array([{"a": 1}], object))
    if kind == "bomb":  # a header that asks for 100 GB, and a megabyte of nothing behind it
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (4_000_000, 3, 48, 48)}
        )
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("faces.npy", header.getvalue() + bytes(1 << 20))
        return out.getvalue()
    if kind == "xz":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("faces.npy", npz(faces=faces))
        return out.getvalue()
    return {
        "text": b"not an archive",
        "nothing": npz(),
        "cut": npz(faces=faces)[:-100],
        "nan": npz(faces=faces * np.nan),
        "bright": npz(faces=faces + 256),
        "shape": npz(faces=faces[0]),
        "dtype": npz(faces=faces.astype(np.float64)),
        "word": npz(token_ids=np.array([2, 10**9, 3])),
        "negative": npz(token_ids=np.array([2, -1, 3])),
        "stranger": npz(faces=faces, secrets=faces),
    }[kind]


def test_a_white_face_is_not_too_bright(server: Any) -> None:
    """As the runtime itself resamples a white picture, which rounds to a little over 255."""
    crop = resize_opencv_area(np.full((49, 49, 3), 255, np.uint8), 48)
    assert crop.max() > 255
    faces = np.ascontiguousarray(crop.transpose(2, 0, 1)[None]).astype(np.float32)
    for largest in (faces, np.nextafter(np.full_like(faces, 255), np.float32(256), dtype=np.float32)):
        response = server.post(content=npz(faces=largest), headers={"content-type": "application/x-npz"})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *((kind, 422) for kind in ("text", "nothing", "cut", "nan", "bright", "shape", "dtype", "word", "negative")),
        *((kind, 422) for kind in ("stranger", "pickle", "xz")),
        ("bomb", 413),
    ],
)
def test_hostile_tensors_are_rejected(server: Any, kind: str, status: int) -> None:
    response = server.post(content=hostile(kind), headers={"content-type": "application/x-npz"})
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == ("bad_tensors" if status == 422 else "too_many_rows")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"files": {"video": b"no video" * 99}}, 422, "bad_media"),
        ({"files": {"video": b""}}, 400, "bad_form"),
        ({"files": {"film": b"x"}}, 400, "bad_form"),
        ({"files": [("video", b"x"), ("video", b"y")]}, 400, "bad_form"),
        ({"files": {"video": b"x", "transcript": b"a"}, "data": {"text": "b"}}, 400, "bad_form"),
        ({"files": {"video": b"x"}, "data": {"window": "-1"}}, 400, "bad_form"),
        ({"files": {"video": b"x"}, "data": {"people": "both"}}, 400, "bad_form"),
        ({"files": {"video": b"x"}, "data": {"people": "region=0,0,9,1"}}, 400, "bad_form"),
        ({"files": {"video": b"x"}, "data": {"people": "left" * 99}}, 413, "too_large"),
        ({"files": {"video": b"x"}, "data": {"segments": "[]"}}, 400, "bad_form"),
        ({"files": {"video": b"x"}, "data": {"segments": '[{"start": 2, "end": 1}]'}}, 400, "bad_form"),
        ({"files": {"video": b"x"}, "data": {"segments": '[{"start": 0, "end": 1e999}]'}}, 400, "bad_form"),
        ({"files": {"video": b"x"}, "data": {"segments": '[{"start": 0, "end": 1, "said": 1}]'}}, 400, "bad_form"),
        ({"files": {"video": b"x"}, "data": {"segments": "[" * 9999}}, 400, "bad_form"),
        (
            {"files": {"video": b"x"}, "data": {"segments": '[{"start": 0, "end": 1}]', "window": "1"}},
            400,
            "bad_form",
        ),
        ({"files": {"video": b"x"}, "data": {"text": "a" * (2**20 + 1)}}, 413, "too_large"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "bad_form"),
        ({"content": b"--a\r\n", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 400, "bad_form"),
        ({"content": b"x", "headers": {"content-type": "video/mp4"}}, 415, "bad_content_type"),
        ({"files": {"video": b"x"}, "headers": {"accept": "image/png"}}, 406, "not_acceptable"),
        ({"files": {"video": b"x"}, "params": {"deadline": "soon"}}, 400, "bad_request"),
        ({"files": {"video": b"x"}, "params": {"deadline": "1e9"}}, 400, "bad_request"),
    ],
)
def test_what_cannot_be_answered_is_rejected_with_a_reason(
    server: Any, request_: dict[str, Any], status: int, code: str
) -> None:
    response = server.post(**request_)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "/tmp" not in response.text and "mmx-serve" not in response.text


def test_a_request_says_whose_face(server: Any, video: Path) -> None:
    asked = [
        server.post(files={"video": video.read_bytes()}, data=data).json()["segments"]
        for data in ({}, {"people": "each"}, {"people": "region=0,0,0.05,0.05"})
    ]
    (largest,), (each,), (corner,) = asked
    assert largest["person"] == each["person"] == 1 and largest["faces"] == each["faces"] != []
    assert corner["person"] is None and "no_face" in corner["flags"]


def test_a_window_that_the_runtime_rejects(server: Any, tone: Path) -> None:
    response = server.post(files={"video": tone.read_bytes()}, data={"window": "0.01"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_request")


def test_limits_of_bytes_seconds_and_pixels(start: Any, video: Path) -> None:
    long = video.read_bytes()
    with start("--max-seconds", "2", "--max-upload", "1", "--workers", "1") as server:
        assert server.post(files={"video": long}).json()["error"]["code"] == "too_long"
        declared = server.post(files={"video": bytes(2**20 + 1)})
        assert (declared.status_code, declared.json()["error"]["code"]) == (413, "too_large")

        def undeclared() -> Iterator[bytes]:
            yield b'--a\r\ncontent-disposition: form-data; name="video"\r\n\r\n'
            yield from (bytes(2**16) for _ in range(20))

        chunked = server.post(content=undeclared(), headers={"content-type": "multipart/form-data; boundary=a"})
        assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "too_large")
        assert server.metric("mmx_workers_replaced_total") == 0
    with start("--file-pixels", "10000", "--workers", "1") as server:
        assert server.post(files={"video": long}).json()["error"]["code"] == "too_many_pixels"


def test_the_model_and_health_are_as_documented(server: Any, predictor: Predictor) -> None:
    manifest = predictor.bundle.manifest
    model = httpx.get(f"{server.url}/v1/model")
    server.check(model, "/v1/model")
    assert model.json()["labels"] == list(manifest.labels)
    assert model.json()["preprocessing"]["mel"]["sample_rate"] == manifest.preprocessing.mel.sample_rate
    assert model.json()["calibrated"] is False
    assert "5(1)(f)" in model.json()["card"]["law"] and model.json()["card"]["not_for"]
    assert model.json()["graph_sha256"] == manifest.files["model.onnx"]
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        response = httpx.get(server.url + path)
        server.check(response, path)
        assert response.json() == {"status": status}
    for missing in ("nowhere.html", "report.html", "standalone/report.html", "../report.py", "%2e%2e/report.py"):
        assert httpx.get(f"{server.url}/{missing}").status_code == 404
    wrong = httpx.get(f"{server.url}/v1/predict")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    page = httpx.get(server.url)
    policy = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in httpx.get(model.url, headers={"origin": "https://a.example"}).headers


def test_metrics_count_what_happened(server: Any, tone: Path) -> None:
    names = ("mmx_requests_total", "mmx_batch_size_count", 'mmx_stage_seconds_count{stage="mel"}')
    server.at_rest()
    before = [server.metric(name) for name in names]
    server.post(files={"video": tone.read_bytes()})
    server.post(files={"video": b"nothing"})
    server.at_rest()
    after = [server.metric(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 1]
    response = httpx.get(f"{server.url}/metrics")
    server.check(response, "/metrics")
    for queue in ("requests", "uploads", "decode", "batch"):
        assert f'mmx_queue{{queue="{queue}"}} 0.0' in response.text


def test_a_key_is_asked_for_where_there_is_one(start: Any, tone: Path, tmp_path: Path) -> None:
    key = "0123456789abcdef"
    (tmp_path / "key").write_text(key + "\n")
    with start("--api-key-file", str(tmp_path / "key"), "--cors-origin", "https://a.example") as server:
        files = {"video": tone.read_bytes()}
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": key}):
            rejected = httpx.post(f"{server.url}/v1/predict", files=files, headers=header)
            assert rejected.status_code == 401 and rejected.headers["www-authenticate"] == "Bearer"
            assert httpx.get(f"{server.url}/metrics", headers=header).status_code == 401
        good = {"authorization": f"Bearer {key}", "origin": "https://a.example"}
        answered = httpx.post(f"{server.url}/v1/predict", files=files, headers=good)
        assert answered.status_code == 200
        assert answered.headers["access-control-allow-origin"] == "https://a.example"
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        document = httpx.get(f"{server.url}/openapi.json").json()
        assert document["paths"]["/v1/predict"]["post"]["security"] == [{"key": []}]
        assert key not in "".join(server.log)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "{taken}"], "cannot listen"),
        (["--backend", "tpu"], "'tpu' is not one of"),
    ],
)
def test_a_server_that_cannot_start_says_why(tiny_bundle: Path, options: list[str], words: str, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        filled = [option.format(taken=taken.getsockname()[1]) for option in options]
        assert main(["serve", str(tiny_bundle), *filled]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mmx: error: ") and words in error


def test_the_docs_list_every_rejection_and_every_metric(server: Any) -> None:
    root = Path(__file__).parents[2]
    docs = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in (root / "serving" / "server").glob("*.py"))
    rejections = set(re.findall(r"Rejection\(\s*(\d{3}),\s*\"(\w+)\"", code))
    rejections |= {(str(status), name) for name, status in REJECTED.items()}
    assert len(rejections) > 15
    for status, name in rejections:
        assert int(status) in openapi.REJECTIONS and name in openapi.REJECTIONS[int(status)], name
        assert re.search(rf"\| [\d, ]*{status}[\d, ]* \|[^|]*`{name}`", docs), name
    shown = re.findall(r"# TYPE (mmx_\w+) ", httpx.get(f"{server.url}/metrics").text)
    for metric in shown:
        assert f"`{metric}" in docs or metric.endswith("_created"), metric
