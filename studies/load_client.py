"""Clients of a running ``mmx serve``: requests with known answers, sent when they are due, each answer checked."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from mmx.runtime.types import Sample

TOLERANCE = 1e-4  # of the largest logit, between batched and alone, in FP32
REDUCED_TOLERANCE = 2e-2  # where sums that differ in their last bit are rounded to BF16 or to one of 256 values
TIMEOUT_S = 180.0
# Rejections that say nothing of the request itself, or only that it costs more than the server gives to one.
ANYTIME = ("busy", "shutting_down", "deadline", "too_slow", "too_long", "too_many_pixels", "too_much_memory",
           "decoder_crashed")  # fmt: skip
SEED = 5


@dataclass(frozen=True)
class Request:
    """One request, and what it must be answered: the fused logits of its segments [segments, labels] within
    ``tolerance`` of the largest, or the code of a rejection; None: anything but a failure of the server."""

    options: dict[str, Any]
    expected: np.ndarray | str | None
    tolerance: float = TOLERANCE


@dataclass
class Outcomes:
    """What became of requests: seconds from when each was due to its whole answer, and counts of everything else.

    ``lost``: sent and never answered. ``unconnected``: the port was closed.
    """

    seconds: list[float] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unconnected: int = 0

    @property
    def sent(self) -> int:
        """All of them."""
        return len(self.seconds) + self.rejected.total() + len(self.wrong) + len(self.lost) + self.unconnected

    def percentile_ms(self, percent: float) -> float:
        """Of the answers' times."""
        return float(np.percentile(self.seconds, percent) * 1000) if self.seconds else float("nan")

    def add(self, others: Outcomes) -> None:
        """Count the others, too."""
        self.seconds += others.seconds
        self.rejected += others.rejected
        self.wrong += others.wrong
        self.lost += others.lost
        self.unconnected += others.unconnected


class Client:
    """Sends requests to one server and checks what comes back."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(self, request: Request, due: float, outcomes: Outcomes) -> None:
        """Send one request and put down what became of it."""
        try:
            response = await self._http.post("/v1/predict", **request.options)
        except httpx.ConnectError:  # nobody listened, so nobody took it
            outcomes.unconnected += 1
            return
        except httpx.HTTPError as e:
            outcomes.lost.append(repr(e))
            return
        took = time.perf_counter() - due
        if response.status_code == 200:
            problem = difference(response.json(), request)
            if problem:
                outcomes.wrong.append(problem)
            else:
                outcomes.seconds.append(took)
            return
        code = str(response.json()["error"]["code"])
        due_code = request.expected if isinstance(request.expected, str) else ""
        if code != due_code and (code not in ANYTIME if request.expected is not None else code == "server_error"):
            outcomes.wrong.append(f"{code}: {response.json()['error']['message']}")
        else:
            outcomes.rejected[code] += 1

    async def open_loop(self, requests: Sequence[Request], rate: float, seconds: float, seed: int = SEED) -> Outcomes:
        """Poisson arrivals: each request is sent when it is due, however many are still waiting."""
        random = np.random.default_rng(seed)
        gaps = random.exponential(1 / rate, max(1, round(rate * seconds)))
        picks = random.integers(0, len(requests), len(gaps))
        outcomes = Outcomes()
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for due, pick in zip(start + np.cumsum(gaps), picks, strict=True):
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self.send(requests[pick], due, outcomes))
        return outcomes

    async def closed_loop(self, requests: Sequence[Request], clients: int, seconds: float) -> tuple[Outcomes, float]:
        """So many clients, each sending the next request when it has the last one's answer; and answers a second."""
        outcomes = Outcomes()
        start = time.perf_counter()

        async def one(number: int) -> None:
            turn = number
            while time.perf_counter() - start < seconds:
                await self.send(requests[turn % len(requests)], time.perf_counter(), outcomes)
                turn += clients

        await asyncio.gather(*(one(number) for number in range(clients)))
        return outcomes, len(outcomes.seconds) / (time.perf_counter() - start)


def difference(answer: dict[str, Any], request: Request) -> str:
    """What is wrong with an answer; nothing: ""."""
    expected = request.expected
    if expected is None:
        return ""
    if isinstance(expected, str):
        return f"an answer, not {expected}"
    found = np.array([list(segment["logits"].values()) for segment in answer["segments"]])
    if found.shape != expected.shape:
        return f"logits {found.shape}, not {expected.shape}"
    worst = relative(found, expected)
    return f"logits differ by {worst:.1e}" if not worst <= request.tolerance else ""


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, of the largest expected."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def tolerance_of(precision: str) -> float:
    """How far an answer of a batch may be from the same sample's alone."""
    return TOLERANCE if precision == "fp32" else REDUCED_TOLERANCE


def tensors(sample: Sample) -> dict[str, Any]:
    """The options of a request that sends a sample as it is."""
    arrays: dict[str, np.ndarray] = {"faces": sample.faces, "pieces": sample.pieces}
    if sample.token_ids is not None:
        arrays["token_ids"] = sample.token_ids
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **arrays)
    return {"content": out.getvalue(), "headers": {"content-type": "application/x-npz"}}


def media(data: bytes, text: str | None = None, window: float | None = None) -> dict[str, Any]:
    """The options of a request that uploads a file."""
    fields = {"text": text, "window": None if window is None else f"{window:g}"}
    return {"files": {"video": data}, "data": {name: value for name, value in fields.items() if value is not None}}
