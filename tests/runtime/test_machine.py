"""The cores that a container pays for, as Linux' control groups of both versions say it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmx.runtime import machine


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A made-up Linux with 64 cores: what is in /proc/self/cgroup, and files of /sys/fs/cgroup by path."""

    def make(membership: str, **files: str) -> int:
        (tmp_path / "membership").write_text(membership)
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        quotas = machine._quotas
        monkeypatch.setattr(machine, "_quotas", lambda *_: quotas(tmp_path, tmp_path / "membership"))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
        return machine.usable_cores()

    return make


def test_a_container_of_version_2_with_two_cpus(linux) -> None:
    assert linux("0::/\n", cpu_dot_max="200000 100000\n") == 2


def test_a_part_of_a_core_is_one_core(linux) -> None:
    assert linux("0::/\n", cpu_dot_max="50000 100000\n") == 1


def test_no_limit_is_no_limit(linux) -> None:
    assert linux("0::/\n", cpu_dot_max="max 100000\n") == 64


def test_the_tightest_of_the_groups_around_counts(linux) -> None:
    files = {"pod__cpu_dot_max": "350000 100000\n", "pod__one__cpu_dot_max": "max 100000\n"}
    assert linux("0::/pod/one\n", **files) == 3


def test_a_name_that_only_the_host_knows(linux) -> None:
    assert linux("0::/docker/0123\n", cpu_dot_max="400000 100000\n") == 4


def test_version_1(linux) -> None:
    files = {"cpu,cpuacct__cpu_dot_cfs_quota_us": "250000\n", "cpu,cpuacct__cpu_dot_cfs_period_us": "50000\n"}
    assert linux("4:memory:/x\n3:cpu,cpuacct:/docker/0123\n0::/\n", **files) == 5


def test_version_1_without_a_limit(linux) -> None:
    files = {"cpu__cpu_dot_cfs_quota_us": "-1\n", "cpu__cpu_dot_cfs_period_us": "100000\n"}
    assert linux("1:cpu:/\n", **files) == 64


@pytest.mark.parametrize("content", ["", "x y", "100000 0", "100000"])
def test_nonsense_is_no_limit(linux, content: str) -> None:
    assert linux("0::/\n", cpu_dot_max=content) == 64


def test_a_system_without_control_groups(linux) -> None:
    assert linux("") == 64
