"""Who may call the server, by which name and key, with which Accept header; and what it logs of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import until

from mmx.cli.main import main
from mmx.runtime.errors import UsageError
from mmx.serving.server.access import HostCheck, host_name
from mmx.serving.server.formats import JSON, NDJSON, SSE, form_for
from mmx.serving.server.rejection import Rejection, deadline_passed
from mmx.serving.server.settings import Limits, Settings

KEY = "0123456789abcdef"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/*", SSE),
        ("text/html, */*;q=0.1", JSON),
        ("application/json;q=0.5, application/x-ndjson", NDJSON),
        ("application/json;q=0.5, application/x-ndjson;q=0.9, text/event-stream;q=0.8", NDJSON),
        ("text/event-stream, application/json", SSE),
        ("application/json, text/event-stream", JSON),
        ("*/*, application/x-ndjson", NDJSON),
        ("*/*;q=0.5, application/json;q=0", NDJSON),
        ("application/json;q=0, */*", NDJSON),
        ("Application/JSON; charset=utf-8; Q=0.3", JSON),
        ("application/json;q=0", None),
        ("image/png", None),
        ("application/json;q=nan", None),
        ("*/*;q=0", None),
    ],
)
def test_the_accept_header_weighs_the_forms(accept: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(Rejection, match="Accept"):
            form_for(accept)
    else:
        assert form_for(accept).content_type == expected


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:8000", "localhost"),
        ("LOCALHOST.", "localhost"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("a.example", "a.example"),
        ("a.example.:80", "a.example"),
    ],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:8000", True),
        ("page.localhost", True),
        ("127.0.0.1", True),
        ("[::1]:80", True),
        ("192.168.1.7:8000", True),
        ("served.example:8000", True),
        ("SERVED.example", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:8000", False),
        ("xserved.example", False),
        ("", False),
    ],
)
def test_names_that_the_server_answers_to(host: str, known: bool) -> None:
    check = HostCheck(None, ("0.0.0.0", "served.example"))  # type: ignore[arg-type]
    assert check._is_known(host) is known
    assert HostCheck(None, ("*",))._is_known(host)  # type: ignore[arg-type]


def test_a_foreign_host_name_is_rejected_but_for_the_health_paths(server: Any) -> None:
    foreign = {"host": "evil.example"}
    for path in ("/", "/v1/model", "/metrics", "/openapi.json"):
        response = httpx.get(server.url + path, headers=foreign)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "foreign_host"), path
    response = server.post(files={"video": b"x"}, headers=foreign)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "foreign_host")
    for path in ("/healthz", "/readyz"):
        assert httpx.get(server.url + path, headers=foreign).status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/v1/model", "/openapi.json"])
def test_head_has_the_status_of_get_and_no_body(server: Any, path: str) -> None:
    head = httpx.head(server.url + path)
    assert (head.status_code, head.content) == (200, b"")


def test_a_line_for_each_request_and_nothing_of_its_content(server: Any, tone: Path) -> None:
    secret = "wombat"
    before = len(server.log)
    server.post(files={"video": (secret, tone.read_bytes())}, data={"text": secret}, params={"deadline": 60, secret: 1})
    httpx.get(f"{server.url}/{secret}")
    httpx.get(f"{server.url}/healthz?{secret}", headers={"authorization": secret})
    until(lambda: any("/healthz" in line for line in server.log[before:]), "the last line")
    lines = "".join(server.log[before:])
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO mmx.serving.access:"
    for what in (r"POST /v1/predict 200", r"GET \(unknown path\) 404", r"GET /healthz 200"):
        assert re.search(rf"^{when} {what} \d+\.\d{{3}} s$", lines, re.MULTILINE), what
    assert secret not in lines and "127.0.0.1" not in lines


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv("MMX_API_KEY", raising=False)
    yield monkeypatch


@pytest.mark.parametrize(
    ("options", "variable", "words"),
    [
        ([], "", "API key is empty"),
        ([], "short", "shorter than 16"),
        (["--host", "0.0.0.0"], None, "no API key"),
        (["--host", "::"], None, "no API key"),
        (["--host", "server.example"], None, "no API key"),
        (["--no-key"], KEY, "--no-key"),
        (["--max-upload", "300", "--upload-budget", "299"], None, "all together 299 MB"),
    ],
)
def test_a_server_that_would_not_be_safe_does_not_start(
    options: list[str], variable: str | None, words: str, tiny_bundle: Path, no_key: pytest.MonkeyPatch, capsys
) -> None:
    if variable is not None:
        no_key.setenv("MMX_API_KEY", variable)
    assert main(["serve", str(tiny_bundle), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mmx: error: ") and words in error


def test_other_machines_may_come_with_a_key_or_where_it_was_said() -> None:
    Settings(Path("x"), host="0.0.0.0", api_key=KEY)
    Settings(Path("x"), host="0.0.0.0", no_key=True)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        Settings(Path("x"), host=host)
    with pytest.raises(UsageError):
        Settings(Path("x"), host="0.0.0.0")


def settings_of(options: list[str], monkeypatch: pytest.MonkeyPatch) -> Limits:
    """The limits that ``mmx serve`` would start with."""
    from mmx.serving.server import lifecycle

    given: list[Settings] = []
    monkeypatch.setattr(lifecycle, "serve", lambda settings, _: given.append(settings))
    assert main(["serve", str(Path(__file__).parent), *options]) == 0
    return given[0].limits


@pytest.mark.parametrize(
    ("options", "media_s", "deadline_s", "worker_s"),
    [
        ([], 600, 600, 600),
        (["--deadline", "30"], 30, 30, 30),
        (["--deadline", "3600"], 600, 3600, 3600),
        (["--max-seconds", "1800"], 1800, 1800, 1800),
        (["--max-seconds", "600", "--deadline", "60", "--file-seconds", "50"], 600, 60, 50),
    ],
)
def test_what_is_accepted_can_be_answered(
    options: list[str], media_s: float, deadline_s: float, worker_s: float, no_key: pytest.MonkeyPatch
) -> None:
    limits = settings_of(options, no_key)
    assert (limits.media_s, limits.deadline_s, limits.worker_s) == (media_s, deadline_s, worker_s)


def test_a_later_deadline_is_only_proposed_where_it_would_be_taken(server: Any) -> None:
    longest = httpx.get(f"{server.url}/v1/model").json()["limits"]["deadline_s"]
    assert "later deadline (600 s at most)" in deadline_passed(10, longest).hint
    assert "deadline" not in deadline_passed(longest, longest).hint
    for asked, status in ((longest, 422), (longest + 1, 400)):
        assert server.post(files={"video": b"x" * 99}, params={"deadline": asked}).status_code == status
