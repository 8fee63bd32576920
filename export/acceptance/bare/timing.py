"""Median time of a call on a device, and its floating-point operations."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from export.acceptance.bare.scale import Scale

MIN_REPEATS = 2


def median_seconds(call: Callable[[], object], device: torch.device, scale: Scale) -> float:
    """Median seconds from the call until its result is complete, after two warm-up calls.

    It is repeated for `scale.cell_seconds` or `scale.repeats` calls, but at least twice.
    """
    call()
    call()
    synchronize(device)
    times: list[float] = []
    while len(times) < MIN_REPEATS or (
        len(times) < scale.repeats and sum(times) < scale.cell_seconds
    ):
        started = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations(module: nn.Module, *inputs: Any) -> int:
    """Multiplications and additions of convolutions and matrix products in a call.

    module, inputs: on the meta device, so that nothing is computed.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops()
