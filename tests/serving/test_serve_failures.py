"""What goes wrong while others are served. A worker that is stopped (SIGSTOP) stands for one at work, so that
nothing here depends on time.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from real_server import running
from waiting import PATIENCE_S, until


def state(pid: int) -> str:
    """A process's state as the kernel has it (Z: ended, its parent has not noticed yet); X: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@pytest.fixture(scope="module")
def small(start: Any) -> Iterator[Any]:
    """A server with one worker and two places."""
    with start("--workers", "1", "--queue", "2") as started:
        yield started


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


@contextmanager
def stopped(server: Any) -> Iterator[int]:
    """Its one worker stands still inside."""
    server.at_rest()
    until(lambda: len(server.workers()) == 1, "a worker")
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)
    try:
        yield worker
    finally:
        with suppress(ProcessLookupError):  # the server has ended it meanwhile
            os.kill(worker, signal.SIGCONT)


def in_work(server: Any, count: int) -> None:
    until(lambda: server.metric('mmx_queue{queue="requests"}') == count, f"{count} requests in work")


def logits(response: httpx.Response) -> dict[str, float]:
    assert response.status_code == 200, response.text
    return response.json()["segments"][0]["logits"]


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_a_full_queue_rejects_and_forgets_nobody(small: Any, tone: Path, pool: ThreadPoolExecutor) -> None:
    upload = {"video": tone.read_bytes()}
    alone = [logits(small.post(files=upload, data={"text": text})) for text in ("glad", "no matter")]
    with stopped(small):
        waiting = [pool.submit(small.post, files=upload, data={"text": text}) for text in ("glad", "no matter")]
        in_work(small, 2)
        rejected = small.post(files={"video": bytes(5_000_000)})  # the whole rejection arrives, though the body is long
        assert code(rejected) == (429, "busy") and int(rejected.headers["retry-after"]) >= 1
    for expected, answer in zip(alone, waiting, strict=True):
        assert logits(answer.result()) == pytest.approx(expected, abs=2e-5)


def test_a_worker_that_is_killed_costs_nobody_an_answer(small: Any, tone: Path, pool: ThreadPoolExecutor) -> None:
    upload = {"video": tone.read_bytes()}
    expected = logits(small.post(files=upload))
    with stopped(small) as worker:
        waiting = [pool.submit(small.post, files=upload) for _ in range(2)]
        in_work(small, 2)
        os.kill(worker, signal.SIGKILL)
        for each in waiting:
            assert logits(each.result()) == pytest.approx(expected, abs=2e-5)
    until(lambda: len(small.workers()) == 1, "its successor")
    (idle,) = small.workers()
    assert idle != worker
    os.kill(idle, signal.SIGKILL)  # between two requests
    assert logits(small.post(files=upload)) == pytest.approx(expected, abs=2e-5)


# In every worker: a file that says so crashes the decoder.
CRASH = """
import os, signal, sys
if "mmx.runtime.workers.process" in sys.orig_argv:
    from mmx.runtime.preprocess import Preprocessor
    true = Preprocessor.segments
    def segments(self, path, **options):
        with open(path, "rb") as file:
            if file.read().endswith(b"DEADLY"):
                os.kill(os.getpid(), signal.SIGSEGV)
        yield from true(self, path, **options)
    Preprocessor.segments = segments
"""


def test_a_crash_costs_one_request(
    start: Any, tone: Path, pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    good, deadly = {"video": tone.read_bytes()}, {"video": tone.read_bytes() + b"DEADLY"}
    with start("--workers", "2") as server:
        expected = logits(server.post(files=good))
        answers = [pool.submit(server.post, files=deadly if number % 3 == 1 else good) for number in range(6)]
        for number, answer in enumerate(answers):
            if number % 3 == 1:
                assert code(answer.result()) == (422, "decoder_crashed")
            else:
                assert logits(answer.result()) == pytest.approx(expected, abs=2e-5)


def test_a_deadline_is_kept_though_decoding_hangs(small: Any, tone: Path) -> None:
    with stopped(small):
        late = small.post(files={"video": tone.read_bytes()}, params={"deadline": 0.2})
        assert code(late) == (504, "deadline")
    assert small.post(files={"video": tone.read_bytes()}).status_code == 200


def test_who_goes_away_makes_room(small: Any, tone: Path) -> None:
    gone = small.metric('mmx_requests_total{outcome="disconnected"}')
    body = b'--a\r\ncontent-disposition: form-data; name="video"\r\n\r\n' + tone.read_bytes() + b"\r\n--a--\r\n"
    with stopped(small):
        with connected(small, len(body)) as decoded, connected(small, len(body)) as waiting:
            for client in (decoded, waiting):
                client.sendall(body)
            in_work(small, 2)
        in_work(small, 0)
    until(lambda: small.metric('mmx_requests_total{outcome="disconnected"}') == gone + 2, "two to be counted")
    assert small.post(files={"video": tone.read_bytes()}).status_code == 200


def test_an_upload_that_breaks_off_and_one_that_never_ends(start: Any) -> None:
    with start("--workers", "1", "--idle", "0.3") as server:
        with connected(server, 1000) as client:
            client.sendall(b"--a\r\n")
        until(lambda: server.metric('mmx_requests_total{outcome="disconnected"}') == 1, "it to be noticed")
        with connected(server, 1000) as client:
            client.sendall(b"--a\r\n")
            response = answer(client)
            assert b"408 Request Timeout" in response and b"slow_upload" in response
        with socket.create_connection(address(server)) as client:  # not even a whole head
            client.sendall(b"POST /v1/predict HTTP/1.1\r\nhost")
            assert b"408 Request Timeout" in answer(client)


def test_a_picture_that_needs_more_memory_than_there_is(start: Any, tone: Path, tmp_path: Path) -> None:
    path = tmp_path / "wide.avi"
    with av.open(path, "w") as out:
        stream = out.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8192, 4096, "yuvj420p"
        out.mux(stream.encode(av.VideoFrame(8192, 4096, "yuvj420p")))
        out.mux(stream.encode(None))
    options = ("--workers", "1", "--file-pixels", "40000000", "--file-memory", "512")
    with start(*options) as server:
        assert code(server.post(files={"video": path.read_bytes()})) == (422, "too_much_memory")
        assert server.post(files={"video": tone.read_bytes()}).status_code == 200


def test_sigterm_lets_everyone_at_hand_have_an_answer(start: Any, tone: Path, pool: ThreadPoolExecutor) -> None:
    upload = {"video": tone.read_bytes()}
    with start("--workers", "1", "--drain", str(PATIENCE_S)) as server:
        expected = logits(server.post(files=upload))
        with stopped(server):
            waiting = [
                pool.submit(httpx.post, f"{server.url}/v1/predict", files=upload, timeout=PATIENCE_S) for _ in range(3)
            ]
            in_work(server, 3)
            with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
                assert client.get("/readyz").status_code == 200
                server.process.send_signal(signal.SIGTERM)
                until(lambda: not taken(client), "it to reject")
            assert server.process.poll() is None
        for each in waiting:
            assert logits(each.result()) == pytest.approx(expected, abs=2e-5)
        assert server.process.wait(PATIENCE_S) == 0


def test_sigterm_ends_with_a_reason_for_those_it_cannot_wait_for(
    start: Any, tone: Path, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    upload = {"video": tone.read_bytes()}
    with start("--workers", "1", "--drain", "0.1", scratch=tmp_path) as server:
        workers = server.workers()
        with stopped(server):
            waiting = pool.submit(httpx.post, f"{server.url}/v1/predict", files=upload, timeout=PATIENCE_S)
            in_work(server, 1)
            assert list(tmp_path.glob("mmx-serve-*"))
            server.process.send_signal(signal.SIGTERM)
            assert code(waiting.result()) == (503, "shutting_down")
        assert server.process.wait(PATIENCE_S) == 0
        until(lambda: all(state(worker) in "ZX" for worker in workers), "the processes to end")
        assert not list(tmp_path.glob("mmx-*"))


def test_a_killed_server_leaves_no_process_and_the_next_no_file(start: Any, tone: Path, tmp_path: Path) -> None:
    with start("--workers", "2", scratch=tmp_path) as server:
        workers = server.workers()
        os.kill(workers[0], signal.SIGSTOP)  # one that hangs
        server.process.kill()
        until(lambda: all(state(worker) in "ZX" for worker in workers), "the processes to end")
    (left,) = tmp_path.glob("mmx-serve-*")
    with start("--workers", "1", scratch=tmp_path) as server:
        assert not left.exists()
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(PATIENCE_S) == 0
    assert not list(tmp_path.glob("mmx-*"))


def test_a_bundle_that_was_replaced_is_not_mixed_with_the_one_that_is_served(
    tiny_bundle: Path, tone: Path, tmp_path: Path
) -> None:
    """Another manifest takes the place of the bundle's: nothing of it is answered with, by no worker."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "tiny.mmx")
    upload = {"video": tone.read_bytes()}
    with running(bundle, "--workers", "1") as server:
        before = server.post(files=upload).json()["segments"][0]
        manifest = json.loads((bundle / "manifest.json").read_bytes())
        manifest["preprocessing"]["mel"]["hop"] *= 2
        manifest["thresholds"] = [0.0] * len(manifest["thresholds"])
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        (tmp_path / "manifest.json").replace(bundle / "manifest.json")
        after = server.post(files=upload).json()["segments"][0]
        for name in ("labels", "logits"):
            assert after[name] == (pytest.approx(before[name], abs=2e-5) if name == "logits" else before[name])
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        response = server.post(files=upload)
        assert code(response) == (503, "not_ready") and str(tmp_path) not in response.text
        assert server.http.get(f"{server.url}/readyz").status_code == 503
        assert any("was replaced" in line for line in server.log)


def test_a_full_disk_and_a_folder_that_is_gone_are_a_507(start: Any, tone: Path, tmp_path: Path) -> None:
    upload = {"video": tone.read_bytes()}
    with start("--workers", "1", scratch=tmp_path) as server:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        full = server.post(files=upload)
        assert code(full) == (507, "no_room") and int(full.headers["retry-after"]) >= 1
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert server.post(files=upload).status_code == 200
        server.at_rest()
        (scratch,) = tmp_path.glob("mmx-serve-*")
        assert [each.name for each in scratch.iterdir()] == [".lock"]
        shutil.rmtree(scratch)
        assert code(server.post(files=upload)) == (507, "no_room")
        assert len([line for line in server.log if "cannot be kept" in line]) == 2


def test_a_fault_in_a_worker_costs_one_request_and_is_in_the_log(
    start: Any, tone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASH.replace("os.kill(os.getpid(), signal.SIGSEGV)", "1 / 0"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with start("--workers", "1", faulty=True) as server:
        assert code(server.post(files={"video": tone.read_bytes() + b"DEADLY"})) == (422, "decoder_crashed")
        assert server.post(files={"video": tone.read_bytes()}).status_code == 200
    log = "".join(server.log)
    assert "Traceback" in log and "ZeroDivisionError" in log


def test_workers_do_not_have_the_key(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMX_API_KEY", "sixteen characters or more")
    with start("--workers", "1") as server:
        assert b"sixteen" in Path(f"/proc/{server.pid}/environ").read_bytes()
        for worker in server.workers():
            assert b"sixteen" not in Path(f"/proc/{worker}/environ").read_bytes()


def test_many_at_once_get_their_own_answers(server: Any, tone: Path, pool: ThreadPoolExecutor) -> None:
    """Each answer is that of the same request alone, whatever it was batched with; good and bad ones at once."""
    random = np.random.default_rng(0)
    requests: list[dict[str, Any]] = [{"files": {"video": random.bytes(2000)}} for _ in range(8)]
    for number in range(16):
        out = io.BytesIO()
        tokens = {"token_ids": random.integers(5, 1000, 3 + number)} if number % 3 else {}
        faces = random.uniform(0, 255, (1 + number % 4, 3, 48, 48)).astype(np.float32)
        np.savez(out, faces=faces, **tokens)
        requests.append({"content": out.getvalue(), "headers": {"content-type": "application/x-npz"}})
    words = ("glad", "no matter", "try again", "fail better")
    requests += [{"files": {"video": tone.read_bytes()}, "data": {"text": text}} for text in words]
    alone = [server.post(**each) for each in requests]
    together: list[Future[httpx.Response]] = [pool.submit(server.post, **each) for each in requests for _ in range(2)]
    for number, future in enumerate(together):
        expected, found = alone[number // 2], future.result()
        assert found.status_code == expected.status_code
        if found.status_code == 200:
            assert logits(found) == pytest.approx(logits(expected), abs=2e-5)
    assert len({str(logits(each)) for each in alone if each.status_code == 200}) == 20  # they do differ


def connected(server: Any, length: int) -> socket.socket:
    """A connection that has sent the head of a form of so many bytes."""
    client = socket.create_connection(address(server))
    head = f"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n"
    client.sendall(f"{head}content-type: multipart/form-data; boundary=a\r\n\r\n".encode())
    return client


def address(server: Any) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def answer(client: socket.socket) -> bytes:
    """All that the server sends until it closes the connection or the body is whole."""
    client.settimeout(PATIENCE_S)
    data = b""
    while chunk := client.recv(65536):
        data += chunk
        head, _, rest = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length and len(rest) >= int(length[1]):
            break
    return data


def taken(client: httpx.Client) -> bool:
    """Whether the server still takes requests, as it says itself; a closed port takes none."""
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_signal_right_after_the_start_drains(start: Any) -> None:
    """The event loop's handler is there without a gap, and no exception is raised in the middle of anything."""
    for _ in range(3):
        with start("--workers", "1") as server:
            server.process.terminate()
            assert server.process.wait(60) == 0
