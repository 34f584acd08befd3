"""``Pipeline`` against ``Predictor``: the same answers in order, whatever fails, however it ends, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmx.runtime import FileResult, MmxError, Pipeline, Prediction, Predictor, Sample, Span, Task
from mmx.runtime import throughput_run as run_module
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.packing import rows
from mmx.runtime.preprocess import Segment
from mmx.runtime.workers.blocking import Workers

WORDS = ["never", "mind", "what", "they", "said", "about", "the", "weather", "in", "those", "hills"]


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline(tiny_bundle, backend="onnxruntime", workers=3, threads=1, max_rows=40) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name in ("mmx-read", "mmx-answer")] == []


def values(prediction: Prediction) -> np.ndarray:
    parts = (prediction.logits, prediction.probabilities, *prediction.modality_logits.values())
    return np.array([value for part in parts for value in part.values()])


def same(one: Prediction, other: Prediction) -> None:
    """Equal in everything but the timings; numbers as near as two batches may be."""
    for name in ("file", "start", "end", "labels", "modalities", "left_out", "frames_seen", "text", "flags", "faces"):
        assert getattr(one, name) == getattr(other, name), name
    np.testing.assert_allclose(values(one), values(other), rtol=1e-5, atol=1e-6)


def test_the_answers_and_their_order_are_those_of_the_predictor(
    pipeline: Pipeline, tiny_bundle: Path, clip: tuple[Path, str], tone: Path, black: Path, tmp_path: Path
) -> None:
    spans = [Span(0, 2.5, "Ever tried."), Span(2, 6, clip[1]), Span(6, 30, None)]
    items = [
        *(Task(tone, text=" ".join(WORDS[:n])) for n in (11, 0, 7, 1, 9, 3)),
        Task(black),
        Task(tone, window=0.4),
        Task(tmp_path / "absent.mp4"),
        Task(clip[0], transcript=spans),
        Task(black, text="I am glad."),
    ]
    results = list(pipeline.run(items))
    assert [result.file for result in results] == [str(item.path) for item in items]
    count = 0
    with Predictor(tiny_bundle, backend="onnxruntime", threads=1, batch_size=1) as predictor:
        for item, result in zip(items, results, strict=True):
            if item.path == tmp_path / "absent.mp4":
                assert isinstance(result.error, BadDataError) and str(item.path) in result.error.message
                assert result.predictions == ()
                continue
            alone = predictor.predict(item.path, text=item.text, transcript=item.transcript, window=item.window)
            for found, expected in zip(result.predictions, alone, strict=True):
                same(found, expected)
                count += 1
            assert result.error is None
    assert count == 18


def test_paths_alone_will_do_and_nothing_gives_nothing(pipeline: Pipeline, tone: Path) -> None:
    assert [len(result.predictions) for result in pipeline.run([tone, str(tone)])] == [1, 1]
    assert list(pipeline.run([])) == []


def segments_of(*sizes: tuple[int, int, int]) -> list[Segment]:
    """Made-up segments of so many tokens, faces and pieces."""
    random = np.random.default_rng(0)
    made = []
    for number, (tokens, faces, pieces) in enumerate(sizes):
        sample = Sample(
            random.integers(4, 90, tokens),
            (random.random((faces, 3, 48, 48)) * 255).astype(np.float32),
            random.random((pieces, 128, 32)).astype(np.float32),
        )
        made.append(Segment("made up", Span(number, number + 1), sample, {}, (), faces, (), {}))
    return made


class MadeUp:
    """A ``Reading`` of segments that no file holds."""

    def __init__(self, segments: Iterator[Segment]) -> None:
        self._segments = segments
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Segment]:
        for segment in self._segments:
            if self._closed.is_set():
                return
            yield segment

    def close(self) -> None:
        self._closed.set()


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Iterator[Segment]]], None]:
    """Put a generator of segments (path) -> Segments in the place of the workers."""

    def put(read: Callable[..., Iterator[Segment]]) -> None:
        monkeypatch.setattr(Workers, "read", lambda self, task: MadeUp(read(task.path)))

    return put


def test_batches_span_files_sorted_by_length_and_within_bounds(
    pipeline: Pipeline, made_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more rows than asked for in a batch, and little padding, though the files come in any order."""
    lengths = np.random.default_rng(1).integers(2, 60, 150)
    listed = threading.Event()

    def items() -> Iterator[str]:
        yield from map(str, range(150))
        listed.set()

    def read(path: str) -> Iterator[Segment]:
        assert listed.wait(60)  # no reader is faster than the list of files
        yield from segments_of((lengths[int(path)], 2, 3))

    made_up(read)
    monkeypatch.setattr(run_module, "WINDOW", 4)
    monkeypatch.setattr(run_module, "IDLE_S", 600.0)
    batches: list[list[Sample]] = []
    real = pipeline.network.predict

    def predict(segments: Sequence[Segment]) -> list[Prediction | MmxError]:
        batches.append([segment.sample for segment in segments])
        return real(segments)

    monkeypatch.setattr(pipeline.network, "predict", predict)
    assert [result.error for result in pipeline.run(items())] == [None] * 150
    assert sum(map(len, batches)) == 150 and max(map(rows, batches)) <= 40
    assert len(batches) < 150 / 4  # a batch holds about six of these
    padded = sum(len(batch) * max(len(sample.token_ids) for sample in batch) for batch in batches)
    assert padded < 1.25 * lengths.sum()  # in the order they come it would be 1.6 times


def test_memory_is_bounded_when_the_network_is_slow(
    pipeline: Pipeline, made_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were read and not answered, and items that were drawn and not yielded, stay within the bounds."""
    lock = threading.Lock()
    waiting = most = drawn = 0

    def read(path: str) -> Iterator[Segment]:
        nonlocal waiting, most
        for segment in segments_of(*[(4, 2, 2)] * 5):
            with lock:
                waiting += 4
                most = max(most, waiting)
            yield segment

    def slow(segments: list[Segment]) -> list[str]:
        nonlocal waiting
        time.sleep(0.002)
        with lock:
            waiting -= 4 * len(segments)
        return ["an answer"] * len(segments)

    def items() -> Iterator[str]:
        nonlocal drawn
        for number in range(320):
            drawn += 1
            yield str(number)

    made_up(read)
    monkeypatch.setattr(pipeline.network, "predict", slow)
    for number, result in enumerate(pipeline.run(items()), 1):
        assert len(result.predictions) == 5
        assert drawn - number <= run_module.AHEAD
    window = run_module.WINDOW * 40
    assert window < most <= 2 * window + 3 * 4 + 4 * 3  # two windows, and what each reader has in its hands


def test_a_fault_of_the_network_stays_with_its_file(
    pipeline: Pipeline, made_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample in a batch of many makes the graph's output no number: the others are answered."""
    made_up(lambda path: iter(segments_of((4, 2, 2), (7 if path == "3" else 4, 2, 2))))
    real = pipeline.backend.run

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        bad = (inputs["attention_mask"].sum(axis=1) == 7).any()
        return {name: array * (np.nan if bad else 1) for name, array in real(inputs).items()}

    monkeypatch.setattr(pipeline.backend, "run", run)
    results = list(pipeline.run(map(str, range(6))))
    for number, result in enumerate(results):
        assert (result.error is not None) == (number == 3)
        assert len(result.predictions) == (1 if number == 3 else 2)
    assert isinstance(results[3].error, BadDataError) and "not finite" in results[3].error.message


def test_a_fault_of_mmx_or_of_an_item_stays_with_its_file(pipeline: Pipeline, made_up: Any, tone: Path) -> None:
    (bad,) = pipeline.run([Task(tone, text="a", transcript="b.srt")])
    assert isinstance(bad.error, UsageError) and bad.predictions == ()

    def read(path: str) -> Iterator[Segment]:
        yield from segments_of((4, 1, 1))
        if path == "1":
            raise ZeroDivisionError("oh")

    made_up(read)
    fine, broken, after = pipeline.run(["0", "1", "2"])
    assert fine.error is None and after.error is None
    assert len(broken.predictions) == 1  # what was read before the fault
    assert type(broken.error) is MmxError and "1: ZeroDivisionError: oh" in broken.error.message
    assert isinstance(broken.error.__cause__, ZeroDivisionError)


def test_leaving_early_stops_all_threads(pipeline: Pipeline, made_up: Any) -> None:
    def endless(path: str) -> Iterator[Segment]:
        while True:
            yield from segments_of((4, 1, 1))

    made_up(lambda path: endless(path) if path != "first" else iter(()))
    results = pipeline.run(["first", "long", "long", "long", "long"])
    assert next(results).file == "first"
    results.close()  # would wait for ever if a thread did not stop

    def source() -> Iterator[str]:
        yield "first"
        yield "long"
        raise OSError("the list of files is gone")

    with pytest.raises(OSError, match="is gone"):
        list(pipeline.run(source()))

    def take(results: Iterator[FileResult]) -> None:
        for _ in results:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(pipeline.run(["first", "long"]))


def test_a_broken_machine_is_an_exception_and_no_silence(
    pipeline: Pipeline, made_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def split(*_: Any, **options: Any) -> Iterator[list[Sample]]:
        raise MemoryError("no room to sort")

    made_up(lambda path: iter(segments_of((4, 1, 1))))
    monkeypatch.setattr(run_module, "split", split)
    with pytest.raises(MemoryError, match="no room"):
        list(pipeline.run(["0", "1", "2", "3"]))


def test_arguments_that_make_no_sense(tiny_bundle: Path) -> None:
    wrong = {"workers": (0, "workers is 0"), "max_rows": (-1, "max_rows"), "batch_size": (0, "batch")}
    for name, (value, words) in wrong.items():
        with pytest.raises(UsageError, match=words):
            Pipeline(tiny_bundle, backend="onnxruntime", **{name: value})  # type: ignore[arg-type]
