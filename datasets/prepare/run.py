"""One run of ``mmx prepare``: a release is read, its recordings are cut side by side, and the data set appears whole.

Everything is made in the hidden folder ``OUT/.prepare-<dataset>``: a finished recording lies in ``done/<name>`` with
its ``record.json``, so that a run that was killed goes on after it, to the same bytes. At the end two renames put
``*_RAW_PROCESSED`` and ``*_SPLIT`` into place.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmx.datasets.prepare import iemocap, mosei, splits
from mmx.datasets.prepare.account import Account, count_labels, shared_between
from mmx.datasets.prepare.confined import run_confined
from mmx.datasets.prepare.mosei_labels import find_labels, read_tables, timed_labels
from mmx.datasets.prepare.plan import Compat, Plan, Task
from mmx.datasets.prepare.sound import RATE
from mmx.datasets.processed import LABELS
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError, missing_extra
from mmx.runtime.files import write_bytes, write_error, write_errors, write_text
from mmx.runtime.people.choice import People

VERSION = 1  # of what a recording is cut into; raised when that changes
SPLIT_BY = ("random", "session")

Progress = Callable[[int, int, str], None]
"""Called with how many recordings are done, how many there are, and which was the last."""


@dataclass(frozen=True)
class Options:
    """How a release is prepared.

    Attributes:
        dataset: iemocap or mosei. compat: correct, or upstream (as the public notebooks do it).
        lists: folder of published splits; None: they are drawn by ``split_by`` and ``seed``.
        labels: MOSEI's labels where they are not in the release.
        people: MOSEI: the part of the frame that images show: largest (all of it), left, right or region=X,Y,W,H.
        workers: recordings that are read at the same time.
    """

    dataset: str
    compat: Compat = "correct"
    lists: Path | None = None
    split_by: str = "random"
    seed: int = 0
    labels: Path | None = None
    workers: int = 1
    people: str = "largest"


@dataclass(frozen=True)
class _Places:
    """Where things are in the output folder."""

    out: Path
    dataset: str

    @property
    def raw(self) -> Path:
        return self.out / f"{self.dataset.upper()}_RAW_PROCESSED"

    @property
    def split(self) -> Path:
        return self.out / f"{self.dataset.upper()}_SPLIT"

    @property
    def account(self) -> Path:
        return self.out / f"prepare-{self.dataset}.json"

    @property
    def work(self) -> Path:
        return self.out / f".prepare-{self.dataset}"


def plan_release(release: Path, options: Options) -> Plan:
    """What there is to do, from the release's texts alone.

    Raises:
        UsageError: the options do not fit together. BadDataError: ``release`` is no such release.
        EnvironmentMissing: a .csd is to be read and h5py is not installed.
    """
    if options.split_by == "session" and options.dataset != "iemocap":
        raise UsageError("--split session is for IEMOCAP", "MOSEI is always split by video")
    _check_people(options)
    if not release.is_dir():
        raise BadDataError(f"{release} is not a folder", "name the folder of the unpacked release")
    if options.dataset == "iemocap":
        return iemocap.read_release(release, options.compat)
    root = mosei.find_root(release)
    plan = Plan(root)
    tables, files = find_labels(root, release, options.labels)
    labels = (
        read_tables(tables, plan)
        if tables
        else timed_labels(run_confined({"kind": "csd", "file": str(files[0])})["timed"])
    )
    mosei.read_release(root, options.compat, labels, plan)
    return plan


def trained_names(plan: Plan, options: Options) -> list[str]:
    """The utterances that belong in a split, as far as the texts show."""
    return [said.name for task in plan.tasks for said in task.utterances if _is_trained(said.label)]


def prepare(
    release: Path, out: Path, options: Options, *, resume: bool = False, progress: Progress | None = None
) -> Account:
    """Prepare a release into ``out``.

    Args:
        resume: go on with what a run that was stopped had done.

    Raises:
        UsageError: ``out`` holds such a data set, or an unfinished run and not ``resume``; see also ``plan_release``.
        BadDataError: nothing in the release is usable, or too little for three splits.
        EnvironmentMissing: Pillow or h5py is not installed, or the disk is full.
    """
    if find_spec("PIL") is None:
        raise missing_extra("Pillow, which writes the images,", "prepare")
    places = _Places(out, options.dataset)
    for place in (places.raw, places.split):
        if place.exists() and not places.work.exists():
            raise UsageError(f"{place} exists", "name a new --out, or remove it")
    lists = splits.published(options.lists, options.dataset) if options.lists else None
    plan = plan_release(release, options)
    names = trained_names(plan, options)
    if not names:
        why = f": {plan.left_out[0].what}: {plan.left_out[0].why}" if plan.left_out else ""
        raise BadDataError(f"{release} has no utterance that can be used{why}", "mmx prepare ... --dry-run says more")
    _choose(names, options, lists)  # fails now rather than after hours
    with _locked(places, options, resume), write_errors(out):
        answers = _cut_all(plan, places, options, progress)
        account, meta, chosen = _gather(plan, answers, options, lists, places)
        _put_into_place(meta, chosen, account, places, options)
    shutil.rmtree(places.work, ignore_errors=True)
    return account


@contextmanager
def _locked(places: _Places, options: Options, resume: bool) -> Iterator[None]:
    """Make or take over the work folder, for this process alone; it goes away again if nothing came of it."""
    work, made_out = places.work, not places.out.exists()
    asked = {"version": VERSION, "dataset": options.dataset, "compat": options.compat, **_whose(options)}
    try:
        if work.exists() and not resume:
            raise UsageError(f"{places.out} holds a run that was not finished", f"--resume, or remove {work}")
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    except OSError as e:
        raise write_error(places.out, e, "choose another --out") from e
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise UsageError(f"another mmx prepare writes to {places.out}", "wait for it") from e
        record = work / "options.json"
        if not record.exists():
            write_text(record, json.dumps(asked))
        elif record.read_text(encoding="utf-8") != json.dumps(asked):
            options_said = "another --compat or --people"
            raise UsageError(f"the unfinished run in {places.out} had {options_said}", f"use that, or remove {work}")
        try:
            yield
        except (BadDataError, UsageError):
            if not any(work.glob("done/*/*/")):
                shutil.rmtree(work, ignore_errors=True)
                if made_out and not any(places.out.iterdir()):
                    places.out.rmdir()
            raise


def _cut_all(plan: Plan, places: _Places, options: Options, progress: Progress | None) -> dict[str, Mapping[str, Any]]:
    """The workers' answers by recording, new or from before; where one failed, {"error": why}."""
    answers: dict[str, Mapping[str, Any]] = {}
    pool = ThreadPoolExecutor(options.workers)
    try:
        waiting = {pool.submit(_cut, task, places.work, options): task.name for task in plan.tasks}
        for number, future in enumerate(as_completed(waiting), 1):
            answers[waiting[future]] = future.result()
            if progress:
                progress(number, len(waiting), waiting[future])
    finally:
        pool.shutdown(cancel_futures=True)
    return answers


def _cut(task: Task, work: Path, options: Options) -> Mapping[str, Any]:
    """Cut one recording, unless an earlier run has done so and its files are the same."""
    done = work / "done" / task.name
    digest = _digest(task, options)
    try:
        record = json.loads((done / "record.json").read_text(encoding="utf-8"))
        if record.pop("digest") == digest:
            return dict(record)
    except (OSError, ValueError, KeyError, AttributeError):
        pass
    part = work / "parts" / task.name
    for folder in (done, part):
        shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        answer = run_confined(
            {
                "kind": "cut",
                "dataset": options.dataset,
                "compat": options.compat,
                **_whose(options),
                "video": str(task.video),
                "audio": str(task.audio),
                "folder": str(part),
                "utterances": [astuple(said) for said in task.utterances],
            }
        )
    except BadDataError as e:
        shutil.rmtree(part, ignore_errors=True)
        return {"error": e.message}
    except EnvironmentMissing as e:
        raise EnvironmentMissing(
            f"{task.name} cannot be written: {e.message}", e.hint or "then mmx prepare --resume"
        ) from e
    (part / "record.json").write_text(json.dumps({"digest": digest, **answer}), encoding="utf-8")
    done.parent.mkdir(exist_ok=True)
    part.rename(done)
    return answer


def _digest(task: Task, options: Options) -> str:
    """What a recording's output depends on: its files, its utterances' names and times, and how it is cut."""
    stats = []
    for path in (task.video, task.audio):
        try:
            status = path.stat()
            stats.append([path.name, status.st_size, status.st_mtime_ns])
        except OSError:
            stats.append([path.name])
    spans = [(said.name, said.start, said.end) for said in task.utterances]
    parts = [VERSION, options.dataset, options.compat, stats, spans, *_whose(options).values()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _whose(options: Options) -> dict[str, str]:
    """The part of the frame, where it is not all of it."""
    return {} if options.people == "largest" else {"people": options.people}


def _check_people(options: Options) -> None:
    people = People.parse(options.people)
    if people.kind == "largest":
        return
    if options.dataset == "iemocap":
        raise UsageError("--people is for MOSEI", "IEMOCAP's two speakers are cut apart anyway")
    if people.part is None:
        hint = "left, right or region=X,Y,W,H; faces are searched for when the images are read"
        raise UsageError(f"images show a part of the frame, and people {people.kind} is none", hint)
    if options.compat == "upstream":
        raise UsageError("--compat upstream writes whole frames, as the public notebook does", "leave --people out")


def _gather(
    plan: Plan,
    answers: Mapping[str, Mapping[str, Any]],
    options: Options,
    lists: splits.Splits | None,
    places: _Places,
) -> tuple[Account, dict[str, dict[str, Any]], splits.Splits]:
    """The account, meta.pkl's content and the splits, from what the workers wrote."""
    meta: dict[str, dict[str, Any]] = {}
    labels: dict[str, tuple[str, ...]] = {}
    recordings = 0
    for task in plan.tasks:
        answer = answers[task.name]
        if "error" in answer:
            for said in task.utterances:
                plan.leave_out(said.name, str(answer["error"]))
            continue
        recordings += 1
        for said, images, samples in zip(task.utterances, answer["images"], answer["samples"], strict=True):
            if not (images and samples):
                lacks = [what for what, there in (("image", images), ("sound", samples)) if not there]
                plan.leave_out(said.name, f"no {' and no '.join(lacks)} at its time")
                continue
            if options.dataset == "iemocap":
                times = {"start_time": said.start, "end_time": said.end, "label": said.label, "text": said.text}
                meta[said.name] = {**times, "sr": RATE, "fps": answer["fps"]}
                labels[said.name] = (str(said.label),)
            else:
                meta[said.name] = {"text": said.text, "label": list(said.label)}
                chosen = zip(LABELS["mosei"], said.label, strict=True)
                labels[said.name] = tuple(label for label, there in chosen if there)
    names = [said.name for task in plan.tasks for said in task.utterances if _is_trained(said.label)]
    usable = [name for name in names if name in meta]
    if not usable:
        first = plan.left_out[0]
        raise BadDataError(
            f"no utterance could be cut: {first.what}: {first.why}", "mmx prepare ... --dry-run says more"
        )
    chosen_splits = _choose(usable, options, lists)
    account = Account(
        dataset=options.dataset,
        recordings=recordings,
        written=len(meta),
        unused=len(meta) - sum(map(len, chosen_splits.values())),
        splits={split: len(mine) for split, mine in chosen_splits.items()},
        labels={split: count_labels(mine, labels, LABELS[options.dataset]) for split, mine in chosen_splits.items()},
        shared=shared_between(chosen_splits, _speaker(options.dataset)),
        left_out=tuple(plan.left_out),
    )
    return account, meta, chosen_splits


def _choose(names: list[str], options: Options, lists: splits.Splits | None) -> splits.Splits:
    """The splits of ``names``."""
    if lists is not None:
        return splits.keep(lists, names)
    groups: dict[str, list[str]] = {}
    by_session = options.split_by == "session"
    for name in names:
        group = name[:5] if by_session else name if options.dataset == "iemocap" else mosei.video_of(name)
        groups.setdefault(group, []).append(name)
    return splits.by_session(groups, options.seed) if by_session else splits.drawn(groups, options.seed)


def _put_into_place(
    meta: dict[str, dict[str, Any]], chosen: splits.Splits, account: Account, places: _Places, options: Options
) -> None:
    """Collect the utterances' folders, write meta.pkl and the splits, and rename all of it to where it belongs."""
    if not places.raw.exists():
        raw = places.work / "raw"
        wanted = {name: raw / _group(name, options.dataset) / name for name in meta}
        for recording in sorted((places.work / "done").iterdir()):
            for folder in sorted(path for path in recording.iterdir() if path.name in wanted):
                target = wanted[folder.name]
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(target)
        write_bytes(raw / "meta.pkl", pickle.dumps(meta, protocol=4))
        raw.rename(places.raw)
    if places.split.exists():
        shutil.rmtree(places.split)
    staged = places.work / "split"
    staged.mkdir(exist_ok=True)
    for split, names in chosen.items():
        (staged / f"{split}_split.txt").write_text("".join(f"{name}\n" for name in names), encoding="ascii")
    staged.rename(places.split)
    record = {
        "schema_version": 1,
        "dataset": options.dataset,
        "compat": options.compat,
        **_whose(options),
        "split": "lists" if options.lists else options.split_by,
        "seed": None if options.lists else options.seed,
        **account.to_plain(),
    }
    write_text(places.account, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _group(name: str, dataset: str) -> str:
    return iemocap.group_folder(name) if dataset == "iemocap" else "."


def _speaker(dataset: str) -> Callable[[str], str]:
    return iemocap.speaker_of if dataset == "iemocap" else mosei.video_of


def _is_trained(label: str | tuple[int, ...]) -> bool:
    return label in iemocap.TRAINED if isinstance(label, str) else True
