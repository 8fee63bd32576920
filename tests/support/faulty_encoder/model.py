"""Triton python backend: the encoder beside it, until a file `fault` names what goes wrong.

The fault lasts until the process is replaced.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import healthy_model  # noqa: E402  # type: ignore[import-not-found]
import triton_python_backend_utils as pb_utils  # noqa: E402

FAULT = FOLDER / "fault"
WRONG_TOKENS = {
    "shape": np.zeros((1, 7), np.int32),
    "ids": np.full((1, 256), 70_000, np.int32),
    "zeros": np.zeros((1, 256), np.int32),  # what a graph makes of NaN
}


class TritonPythonModel(healthy_model.TritonPythonModel):  # type: ignore[misc]
    """Answers as FAULT says: wrong tokens, nothing ("hangs"), or nothing once ("one hangs")."""

    def initialize(self, args: dict[str, str]) -> None:
        super().initialize(args)
        self.fault = ""
        FAULT.unlink(missing_ok=True)

    def _run(self, requests: list[Any]) -> list[Any]:
        self.fault = self.fault or (FAULT.read_text() if FAULT.exists() else "")
        if self.fault == "one hangs":
            FAULT.unlink(missing_ok=True)
        if self.fault in ("hangs", "one hangs"):
            time.sleep(3600)
        responses: list[Any] = super()._run(requests)
        if not self.fault:
            return responses
        sizes = [
            len(pb_utils.get_input_tensor_by_name(request, "picture").as_numpy())
            for request in requests
        ]
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor("tokens", WRONG_TOKENS[self.fault].repeat(size, axis=0)),
                    pb_utils.Tensor("execution", np.ones((size, 2), np.int64)),
                ]
            )
            for size in sizes
        ]
