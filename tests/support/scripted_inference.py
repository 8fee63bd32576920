"""A Triton client without a server: answers single inferences with outputs that a test sets."""

import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.triton.detached import PermitLike
from service.triton.health import EngineHealth
from service.triton.models import Inference, Model


class ScriptedInference:
    """Answers with `outputs[model name]`, repeated for each row; zeros by default.

    started: set by the first inference. gate: answers wait for it. requests: model name and input
    of each inference, in order.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, NDArray[Any]] = {}
        self.started, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.health = EngineHealth()
        self.requests: list[tuple[str, NDArray[Any]]] = []

    async def infer(
        self, model: Model, array: NDArray[Any], *, permit: PermitLike | None = None
    ) -> Inference:
        self.requests.append((model.name, array))
        self.started.set()
        await self.gate.wait()
        output = self.outputs.get(model.name, np.zeros(model.output.shape, model.output.dtype))
        return Inference(np.broadcast_to(output, (len(array), *output.shape)), 0.25, 0.5)
