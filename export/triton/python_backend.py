"""Triton python backend of a tokenizer: runs one ONNX graph in ONNX Runtime or OpenVINO on a CPU.

`export.triton.repository` copies this file beside `model.onnx` as `1/model.py`; it imports nothing
of this project and takes tensor names and types from the graph.

All requests that Triton batched run as one array. An image's tokens still never depend on its
neighbours: the CPU kernels of both engines treat each image of a batch alike, to the last bit
(tests/export/triton/test_python_backend.py).

An instance of the group `lone` computes on all cores where no other instance of any model does. The
outputs are the same: in f32 they do not depend on the number of threads.

A request may ask for `execution` too, int64 [2]: nanoseconds that the graph ran for its batch, and
images in that batch.
"""

import fcntl
import json
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:
    pb_utils = None  # outside Triton, where benchmarks load the same engines

# Both engines send telemetry from their import on (docs/decisions/0035).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if it were not installed

EXECUTION = "execution"
INT8_GRAPH = "model_int8.onnx"
LONE_INSTANCE = "lone_0"  # of a group without a name it would be <model>_<group>_<number>
# An instance that took all cores between two images of a few callers would share them with the
# next: 4 callers lost a sixth of their images/s.
CROWD_SECONDS = 0.5
# struct flock of 64-bit Linux: type, whence, start, length, pid.
READ_LOCK, WRITE_LOCK, NO_LOCK = (
    struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
    for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK)
)
# Names of inputs, names of outputs, and a function from arrays by name to output arrays.
Loaded = tuple[list[str], list[str], Callable[[dict[str, Any]], list[Any]]]


class TritonPythonModel:
    """One instance of an engine.

    It reads these parameters of config.pbtxt: engine (onnxruntime, openvino), precision (f32, bf16,
    int8), threads, and lone_threads (of an instance of the group `lone` where no other computes).
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph. Raises RuntimeError under numpy 2, and what the engine raises.

        args: see Triton's python backend.
        """
        if int(np.__version__.split(".")[0]) >= 2:
            raise RuntimeError(
                f"numpy {np.__version__} is installed; this Triton's python backend returns wrong "
                "values and empty outputs under numpy 2 without an error: install numpy 1.26"
            )
        config = json.loads(args["model_config"])
        parameters = {
            name: value["string_value"] for name, value in config.get("parameters", {}).items()
        }
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        engine, precision, threads = (
            parameters[name] for name in ("engine", "precision", "threads")
        )
        batches = (
            *config.get("dynamic_batching", {}).get("preferred_batch_size", ()),
            int(config["max_batch_size"]),
        )
        self.inputs, self.outputs, self.run = load(graph, engine, precision, int(threads), *batches)
        self.run_alone = self.run
        self.loading = threading.Thread(target=self._load_alone, args=(graph, parameters))
        if args["model_instance_name"] == LONE_INSTANCE:
            self.loading.start()  # the instance is ready meanwhile
        self.computing = Computing()

    def finalize(self) -> None:
        """End once nothing is being loaded."""
        if self.loading.ident is not None:
            self.loading.join()

    def _load_alone(self, graph: Path, parameters: dict[str, str]) -> None:
        engine, precision = parameters["engine"], parameters["precision"]
        # It seldom has a batch: without one compiled for it, OpenVINO saves 100 MB.
        *_, self.run_alone = load(graph, engine, precision, int(parameters["lone_threads"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in order: outputs, or an error for a request that fails."""
        try:
            return self._run(requests)
        except Exception as error:
            if len(requests) > 1:  # run each alone, so that only the faulty one fails
                return [self.execute([request])[0] for request in requests]
            pb_utils.Logger.log_error(f"a request failed: {error!r}")
            return [
                pb_utils.InferenceResponse(
                    error=pb_utils.TritonError(f"the graph cannot run on this input: {error}")
                )
            ]

    def _run(self, requests: list[Any]) -> list[Any]:
        read = pb_utils.get_input_tensor_by_name
        parts = {
            name: [read(request, name).as_numpy() for request in requests] for name in self.inputs
        }
        feed = {
            name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            for name, arrays in parts.items()
        }
        started = time.perf_counter_ns()
        with self.computing as alone:
            outputs = (self.run_alone if alone else self.run)(feed)
        execution = (time.perf_counter_ns() - started, len(outputs[0]))
        responses, end = [], 0
        for request, part in zip(requests, parts[self.inputs[0]], strict=True):
            rows = slice(end, end := end + len(part))
            tensors = [
                pb_utils.Tensor(name, array[rows])
                for name, array in zip(self.outputs, outputs, strict=True)
            ]
            if EXECUTION in request.requested_output_names():
                counters = np.array([execution] * len(part), np.int64)
                tensors.append(pb_utils.Tensor(EXECUTION, counters))
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses


class Computing:
    """Marks that this process computes, and tells whether it is the only one.

    Processes of this backend hold a lock meanwhile, on the file of the program that they all run,
    which is there to be read wherever they start. The kernel releases the locks of one that dies.
    """

    def __init__(self) -> None:
        self._file = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
        self._not_alone_until = 0.0

    def __enter__(self) -> bool:
        """Whether no other process computes, or was seen to in the last CROWD_SECONDS."""
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, READ_LOCK)
        return not self._others_compute() and time.monotonic() >= self._not_alone_until

    def __exit__(self, *_: object) -> None:
        self._others_compute()
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, NO_LOCK)

    def _others_compute(self) -> bool:
        # The lock that would be in the way of a write lock; our own never is.
        found = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, WRITE_LOCK)
        if found == NO_LOCK:
            return False
        self._not_alone_until = time.monotonic() + CROWD_SECONDS
        return True


def load(graph: Path, engine: str, precision: str, threads: int, *batches: int) -> Loaded:
    """Load an ONNX file into an engine, onnxruntime or openvino.

    precision: f32, bf16, or int8, which runs INT8_GRAPH from the same folder.
    batches: the most frequent batch sizes; any other one works too.
    Raises ValueError for an unknown engine or precision, and what the engine raises.
    """
    engines = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    if engine not in engines:
        raise ValueError(f"engine {engine!r} is not one of {', '.join(engines)}")
    return engines[engine](str(graph), precision, threads, *batches)


def _onnxruntime(graph: str, precision: str, threads: int, *batches: int) -> Loaded:
    import onnxruntime

    if precision != "f32":
        raise ValueError(f"ONNX Runtime computes in f32 here, not in {precision}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Its threads leave the cores to others between two runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    outputs = [tensor.name for tensor in session.get_outputs()]
    return (
        [tensor.name for tensor in session.get_inputs()],
        outputs,
        lambda feed: session.run(outputs, feed),
    )


@cache
def openvino_core() -> Any:
    """OpenVINO's Core, the same for all graphs of this process.

    A Core changes the signal stack of the thread that makes it. When it ends, it restores the stack
    that it found: of several, that may be one that has ended before, and the next signal kills the
    process (OpenVINO 2026.4, docs/decisions/0068).
    """
    import openvino

    return openvino.Core()


def _openvino(graph: str, precision: str, threads: int, *batches: int) -> Loaded:
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Each instance is a process of its own: all of them would pin to the same core.
        "ENABLE_CPU_PINNING": False,
    }
    if precision == "int8":  # its other operators run in bf16 where the processor has it
        graph = str(Path(graph).with_name(INT8_GRAPH))
    else:
        settings["INFERENCE_PRECISION_HINT"] = precision
    # A fixed batch size saves OpenVINO a sixth to a fifth of the time. A further model of dynamic
    # batch would round differently: tokens would depend on the batch (docs/decisions/0025).
    core, requests = openvino_core(), {}
    for size in sorted({1, *batches}, reverse=True):
        model = core.read_model(graph)
        model.reshape({port: [size, *list(port.partial_shape)[1:]] for port in model.inputs})
        compiled = core.compile_model(model, "CPU", settings)
        requests[size] = compiled.create_infer_request()
    inputs, outputs = (
        [port.any_name for port in ports] for ports in (compiled.inputs, compiled.outputs)
    )

    def run(feed: dict[str, Any]) -> list[Any]:
        count, done, parts = len(feed[inputs[0]]), 0, []
        while done < count:
            size = next(size for size in requests if size <= count - done)
            outputs_by_port = requests[size].infer(
                {name: array[done : done + size] for name, array in feed.items()}, share_inputs=True
            )
            done += size
            parts.append(list(outputs_by_port.values()))
        return [
            np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
            for arrays in zip(*parts, strict=True)
        ]

    return inputs, outputs, run
