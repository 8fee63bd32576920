"""The processes of one training run: one, or as many as `torchrun` started."""

import os
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed
from torch import nn

DeviceChoice = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, and the device it trains on."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that evaluates, logs and saves."""
        return self.rank == 0

    def share(self, model: nn.Module) -> nn.Module:
        """The model whose gradients are averaged over all processes; `model` itself where there is only one."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(
            model, device_ids=None if self.device.type == "cpu" else [self.device]
        )

    def average_gradients(self, module: nn.Module) -> None:
        """For a small module that `share` does not wrap."""
        if self.count > 1:
            for weight in module.parameters():
                if weight.grad is not None:
                    torch.distributed.all_reduce(weight.grad)
                    weight.grad /= self.count

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process. All must ask, and all get the same answer."""
        return self.largest(float(flag)) > 0

    def largest(self, value: float) -> float:
        """The largest `value` of all processes. All must ask, and all get the same answer."""
        if self.count == 1:
            return value
        values = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        return float(values.item())

    def close(self) -> None:
        """Leave the group."""
        if self.count > 1:
            torch.distributed.destroy_process_group()


def join(device: DeviceChoice = "auto") -> Processes:
    """Join the group that torchrun's environment describes, over NCCL on GPUs and gloo on CPUs.

    Without torchrun it is this process alone. device: auto = a GPU where there is one. Raises
    ValueError when a GPU is asked for and there is none.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise ValueError("there is no GPU to train on: choose the device cpu, or auto")
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = torch.device("cpu")
    if gpu:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if count > 1:
        torch.distributed.init_process_group("nccl" if gpu else "gloo")
    return Processes(rank, count, place)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether a recipe's `precision` (auto, fp32 or bf16) is bfloat16 on `device`: auto is where the hardware multiplies it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
