"""Data-parallel training: rank, device and collectives under `torchrun`, or a single process."""

import os
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed
from torch import nn

DeviceChoice = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class ProcessGroup:
    """Rank of this process, process count, and training device. Default: one process on the CPU."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process evaluates, logs and saves."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, averaging gradients over all processes; `model` itself in a single process."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(
            model, device_ids=None if self.device.type == "cpu" else [self.device]
        )

    def average_gradients(self, module: nn.Module) -> None:
        """Average the gradients of a small module that `wrap` does not cover."""
        if self.count > 1:
            for weight in module.parameters():
                if weight.grad is not None:
                    torch.distributed.all_reduce(weight.grad)
                    weight.grad /= self.count

    def any_true(self, flag: bool) -> bool:
        """Whether `flag` is true in any process. Every process must call it."""
        return self.maximum(float(flag)) > 0

    def maximum(self, value: float) -> float:
        """The largest `value` of all processes. Every process must call it."""
        if self.count == 1:
            return value
        values = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        return float(values.item())

    def close(self) -> None:
        """Destroy the group."""
        if self.count > 1:
            torch.distributed.destroy_process_group()


def join(device: DeviceChoice = "auto") -> ProcessGroup:
    """Join the group described by torchrun's environment, over NCCL on GPUs and gloo on CPUs.

    Without torchrun, a group of this process alone. device: auto = a GPU where there is one.
    Raises ValueError for `cuda` without a GPU.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise ValueError("there is no GPU to train on: choose the device cpu, or auto")
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = torch.device("cpu")
    if gpu:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if count > 1:
        torch.distributed.init_process_group("nccl" if gpu else "gloo")
    return ProcessGroup(rank, count, chosen)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether a recipe's `precision` (auto, fp32 or bf16) means bfloat16 on `device`.

    auto: bfloat16 where the hardware multiplies it.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
