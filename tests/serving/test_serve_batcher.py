"""The batcher: whose samples go together, when, and that nobody gets another's answer or fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmx.runtime.errors import BackendFailed, BadDataError, MmxError
from mmx.runtime.manifest import GraphSpec, Preprocessing, TensorSpec
from mmx.runtime.network import Network
from mmx.runtime.types import Sample
from mmx.serving.server.batcher import MAX_ROWS, Batcher
from mmx.serving.server.metrics import Metrics
from mmx.serving.server.rejection import rejection_of

NO_FACES, NO_PIECES = np.empty((0, 3, 48, 48), np.float32), np.empty((0, 128, 32), np.float32)
FOREVER_S = 3600.0


def sample(number: int, tokens: int = 3, faces: int = 0) -> Sample:
    """A sample that the network below answers with ``number``."""
    return Sample(np.full(tokens, number), np.zeros((faces, 3, 48, 48), np.float32) if faces else NO_FACES, NO_PIECES)


class Engine:
    """A backend that answers each sample with its number, times ten for logits_text; keeps what it was given, and can
    be held up. 13 makes it fail, 7 makes it give no number, 17 one answer too few.
    """

    name, precision, device, why, streams = "made up", "fp32", "here", "", 1
    inputs, outputs = ("input_ids", "attention_mask"), ("logits", "logits_text")

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        numbers = inputs["input_ids"][:, 0].tolist()
        self.batches.append(numbers)
        self.busy.set()
        assert self.go.wait(60)
        if 13 in numbers:
            raise RuntimeError("an engine's own exception")
        values = np.array(numbers[1:] if 17 in numbers else numbers, np.float32)[:, None]
        return {"logits": np.where(values == 7, np.nan, values), "logits_text": values * 10}


def make(engine: Engine, max_batch: int = 4, max_wait_s: float = 0.0, streams: int = 1) -> Batcher:
    inputs = tuple(TensorSpec(name, "int64", ("batch", "tokens")) for name in Engine.inputs)
    graph = GraphSpec("model.onnx", "fp32", 20, inputs, ())
    manifest: Any = SimpleNamespace(
        system="ours",
        labels=("hap",),
        graphs={"fp32": graph},
        preprocessing=Preprocessing(),
        provenance={},
        dataset="iemocap",
    )
    network = Network(SimpleNamespace(manifest=manifest, calibration={}, domain=None), engine)  # type: ignore[arg-type]
    batcher = Batcher(network, streams, Metrics(), max_batch=max_batch, max_wait_s=max_wait_s)
    batcher.open()
    return batcher


async def hold(network: Engine, batcher: Batcher) -> asyncio.Future:
    """Keep the network busy with sample 99."""
    network.go.clear()
    future = batcher.submit(sample(99))
    await asyncio.to_thread(network.busy.wait, 60)
    return future


def test_what_waits_while_the_network_is_busy_goes_together_and_each_gets_its_own() -> None:
    async def run() -> None:
        network = Engine()
        batcher = make(network, max_wait_s=0.0)
        first = await hold(network, batcher)
        futures = [
            batcher.submit(sample(number, tokens)) for number, tokens in ((1, 9), (2, 50), (3, 8), (4, 51), (5, 10))
        ]
        assert batcher.waiting == 5
        network.go.set()
        for number, future in zip((99, 1, 2, 3, 4, 5), (first, *futures), strict=True):
            row = await future
            assert row.outputs["logits"].tolist() == [number] and row.outputs["logits_text"].tolist() == [10 * number]
        # The oldest (9 tokens) first, with those nearest to it in length; the long ones are left together.
        assert [sorted(batch) for batch in network.batches] == [[99], [1, 2, 3, 5], [4]]
        await batcher.close()

    asyncio.run(run())


def test_a_full_batch_does_not_wait_and_a_single_sample_waits_no_longer_than_allowed() -> None:
    async def run() -> None:
        network = Engine()
        batcher = make(network, max_batch=2, max_wait_s=FOREVER_S)
        both = [batcher.submit(sample(number)) for number in (1, 2)]
        async with asyncio.timeout(60):
            await asyncio.gather(*both)
        await batcher.close()
        batcher = make(network, max_batch=2, max_wait_s=0.01)
        async with asyncio.timeout(60):
            await batcher.submit(sample(3))
        assert network.batches == [[1, 2], [3]]
        await batcher.close()
        alone = make(network, max_batch=1, max_wait_s=FOREVER_S)  # nobody can come: no reason to wait
        async with asyncio.timeout(60):
            await alone.submit(sample(4))
        await alone.close()

    asyncio.run(run())


def test_rows_bound_a_batch_but_a_sample_over_the_bound_still_goes_alone() -> None:
    async def run() -> None:
        network = Engine()
        batcher = make(network)
        first = await hold(network, batcher)
        sizes = {1: MAX_ROWS // 2 + 1, 2: MAX_ROWS // 2, 3: MAX_ROWS // 4, 4: MAX_ROWS + 1}
        futures = [batcher.submit(sample(number, faces=faces)) for number, faces in sizes.items()]
        network.go.set()
        await asyncio.gather(first, *futures)
        assert network.batches == [[99], [1, 3], [2], [4]]
        await batcher.close()

    asyncio.run(run())


def test_one_samples_fault_is_its_own() -> None:
    async def run() -> None:
        network = Engine()
        batcher = make(network)
        first = await hold(network, batcher)
        good, broken, last = (batcher.submit(sample(number)) for number in (1, 13, 2))
        not_finite, short = batcher.submit(sample(7)), batcher.submit(sample(17))
        network.go.set()
        await first
        assert (await good).outputs["logits"].tolist() == [1] and (await last).outputs["logits"].tolist() == [2]
        with pytest.raises(BackendFailed, match="own exception"):
            await broken
        with pytest.raises(BadDataError, match="finite"):
            await not_finite
        with pytest.raises(BackendFailed, match="of shape") as fault:
            await short
        assert rejection_of(fault.value).status == 500  # the server's fault, not the file's
        assert batcher.alive and (await batcher.submit(sample(3))).outputs["logits"].tolist() == [3]
        await batcher.close()

    asyncio.run(run())


@pytest.mark.parametrize("fault", [ZeroDivisionError("of our own"), None], ids=["raises", "an answer too few"])
def test_a_fault_of_our_own_fails_its_batch_and_not_the_stream(
    fault: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is told so at once, rather than at the end of the deadline."""
    true_each = Network.each

    def each(self: Network, samples: Sequence[Sample]) -> list[Any]:
        if any(one.token_ids is not None and one.token_ids[0] == 5 for one in samples):
            if fault:
                raise fault
            return []
        return true_each(self, samples)

    monkeypatch.setattr(Network, "each", each)

    async def run() -> None:
        batcher = make(Engine(), streams=2)
        async with asyncio.timeout(60):
            for _ in range(3):  # more than there are streams
                with pytest.raises(MmxError, match="fault of mmx") as told:
                    await batcher.submit(sample(5))
                assert rejection_of(told.value).status == 500
            assert (await batcher.submit(sample(3))).outputs["logits"].tolist() == [3]
        assert batcher.alive
        await batcher.close()

    asyncio.run(run())


def test_a_stream_takes_its_share_of_what_waits_and_leaves_the_others_theirs() -> None:
    async def run() -> None:
        network = Engine()
        batcher = make(network, streams=2)
        first = await hold(network, batcher)
        futures = [batcher.submit(sample(number)) for number in (1, 2, 3, 4)]
        while len(network.batches) < 2:  # the free stream does not wait for the busy one
            await asyncio.sleep(0.01)
        network.go.set()
        await asyncio.gather(first, *futures)
        assert network.batches[:2] == [[99], [1, 2]] and sorted(network.batches[2:]) == [[3], [4]]
        await batcher.close()

    asyncio.run(run())


def test_who_went_away_is_not_computed() -> None:
    async def run() -> None:
        network = Engine()
        batcher = make(network)
        first = await hold(network, batcher)
        gone, stays = batcher.submit(sample(1)), batcher.submit(sample(2))
        gone.cancel()
        first.cancel()  # in the network already: its answer is thrown away
        network.go.set()
        await stays
        assert network.batches == [[99], [2]]
        pending = batcher.submit(sample(3))
        await batcher.close()
        assert pending.cancelled() or pending.done()

    asyncio.run(run())
