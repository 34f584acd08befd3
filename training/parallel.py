"""One training in several processes, by torch's DistributedDataParallel: what they share out and what they agree on.

    torchrun --nproc-per-node 4 -m mmx.cli train iemocap --data DATA

A batch is the recipe's in all, shared out between the processes, so that the gradient is the same as one process's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mmx.runtime.errors import UsageError

PATIENCE = timedelta(days=2)  # for the process that preprocesses a data set while the others wait


@dataclass(frozen=True)
class Group:
    """The processes of one training: which of ``size`` this is, and which GPU of its machine it has."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, batch: Sequence[int]) -> tuple[Sequence[int], float]:
        """This process's part of a batch, and what its mean loss must be multiplied with.

        The mean of the processes' weighted losses is then the mean over the batch. A process without a part computes
        one sample for nothing, because all take part in every step.
        """
        mine = batch[self.rank :: self.size]
        return (mine, len(mine) * self.size / len(batch)) if mine else (batch[:1], 0.0)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of each process's value."""
        if self.size > 1:
            value = value.detach().clone()
            distributed.all_reduce(value)
            value /= self.size
        return value

    def gather(self, rows: NDArray[Any], count: int) -> NDArray[Any]:
        """The rows of all: those of ``range(count)[rank::size]`` come from each process."""
        if self.size == 1:
            return rows
        parts: list[NDArray[Any]] = [rows] * self.size
        distributed.all_gather_object(parts, rows)
        whole = np.empty((count, *rows.shape[1:]), rows.dtype)
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def wait(self) -> None:
        """Until every process has come this far."""
        if self.size > 1:
            distributed.barrier()

    def over(self, module: nn.Module) -> nn.Module:
        """The module as it is run in training: its gradients are the mean over the processes."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=True)

    def agree(self, module: nn.Module) -> None:
        """Give every process the first one's buffers (BatchNorm's statistics are of each one's own samples)."""
        if self.size > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)


def leads() -> bool:
    """Whether this process is alone, or the one of its group that reports."""
    return os.environ.get("RANK", "0") == "0"


ALONE = Group()


@contextmanager
def joined(device: str) -> Iterator[tuple[Group, str]]:
    """The group that torchrun started this process in (alone without it), and the device that it should use.

    Raises:
        UsageError: torchrun's variables make no sense.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        yield ALONE, device
        return
    try:
        group = Group(int(os.environ["RANK"]), int(size), int(os.environ["LOCAL_RANK"]))
    except (KeyError, ValueError) as e:
        raise UsageError(
            f"WORLD_SIZE is {size} and {e} is missing", "torchrun --nproc-per-node N -m mmx.cli train"
        ) from e
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(group.local)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield group, f"cuda:{group.local}" if on_gpu else device
    finally:
        distributed.destroy_process_group()
