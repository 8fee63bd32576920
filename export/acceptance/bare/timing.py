"""How long a call takes on a device, and how much work is in it."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from export.acceptance.bare.scale import Scale

LEAST_REPEATS = 2


def median_seconds(call: Callable[[], object], device: torch.device, scale: Scale) -> float:
    """Seconds from the call until its result is there, median; two calls before are not counted.

    It is repeated until `scale.enough` seconds or `scale.repeats` calls, but twice at least.
    """
    call()
    call()
    synchronize(device)
    times: list[float] = []
    while len(times) < LEAST_REPEATS or (len(times) < scale.repeats and sum(times) < scale.enough):
        started = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Wait for all that was asked of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations(module: nn.Module, *given: Any) -> int:
    """Multiplications and additions of convolutions and matrix products in a call.

    module, given: on the meta device, so that nothing is computed.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(*given)
    return counter.get_total_flops()
