"""Triton's python backend around one ONNX graph on the CPU. `export.repository` copies this file into each model as `1/model.py`.

It stands alone beside `model.onnx` and knows nothing of tokenizers: names and types come from the graph. All requests that Triton batched
run as one array. That keeps the law that a picture's tokens never depend on its neighbours, because ONNX Runtime's CPU kernels treat each
picture of a batch alike, to the last bit (tests/export/test_triton_model.py holds them to it).

Beside the graph's outputs each response has `compute_ns`, int64 [1]: how long the graph ran for its batch.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance: a session of its own on `threads` threads (a parameter of config.pbtxt, 1 by default)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph. args: see Triton's python backend. Raises RuntimeError under numpy 2, and what ONNX Runtime raises."""
        if int(np.__version__.split(".")[0]) >= 2:
            raise RuntimeError(
                f"numpy {np.__version__} is installed, but this Triton's python backend hands over wrong values and empty outputs under "
                "numpy 2 without an error; install numpy 1.26"
            )
        parameters = json.loads(args["model_config"]).get("parameters", {})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("threads", {}).get("string_value", "1"))
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.outputs = [tensor.name for tensor in self.session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order: outputs, or an error for a request that cannot run."""
        try:
            return self._run(requests)
        except Exception as error:
            if len(requests) > 1:  # find out whose fault it is: the others are answered
                return [self.execute([request])[0] for request in requests]
            pb_utils.Logger.log_error(f"a request failed: {error!r}")
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(f"the graph cannot run on this input: {error}"))]

    def _run(self, requests: list[Any]) -> list[Any]:
        feed: dict[str, Any] = {}
        for name in self.inputs:
            parts = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            feed[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
            ends = np.cumsum([len(part) for part in parts])[:-1]
        started = time.perf_counter_ns()
        outputs = self.session.run(self.outputs, feed)
        elapsed = time.perf_counter_ns() - started
        results = [np.split(array, ends) for array in outputs]
        return [
            pb_utils.InferenceResponse(
                [
                    *(pb_utils.Tensor(name, part) for name, part in zip(self.outputs, parts, strict=True)),
                    pb_utils.Tensor("compute_ns", np.full((len(parts[0]), 1), elapsed, np.int64)),
                ]
            )
            for parts in zip(*results, strict=True)
        ]
