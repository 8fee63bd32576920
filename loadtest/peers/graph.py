"""The encode graph in ONNX Runtime and the image preprocessing, shared by all peers."""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import imaging
from service.machine import cores

GRAPH = next((Path(__file__).parents[2] / "model_repository").glob("*_encode/1/model.onnx"))
CORES = cores()


class Graph:
    """An inference session on `threads` threads."""

    def __init__(self, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(GRAPH), options, providers=["CPUExecutionProvider"]
        )
        (self._input,) = self._session.get_inputs()

    def pixels(self, jpeg: bytes) -> NDArray[np.uint8]:
        """Decode and resize a JPEG to uint8 [S, S, 3]."""
        return imaging.prepare(jpeg, int(self._input.shape[1]))

    def ids(self, pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Encode pixels uint8 [n, S, S, 3] to ids int32 [n, C]."""
        output: NDArray[np.int32] = self._session.run(None, {self._input.name: pixels})[0]
        return output
