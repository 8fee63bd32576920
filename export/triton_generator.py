"""Triton's python backend around a generator's step graph. `export.generator_repository` copies this file into the model as `1/model.py`.

It stands alone beside `model.onnx`. One request is one sequence, answered token by token (Triton's decoupled mode). One thread runs all
sequences of the instance, a token of each in turn, every one alone and with a cache of its own: a sequence neither waits for the end of
another nor changes with it.
"""

import json
import queue
import threading
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:
    pb_utils = None  # outside Triton, where exports are compared with PyTorch


def gumbel(seed: int, index: int, draws: int, values: int) -> Any:
    """The noise of token `index`: Gumbel, float32 [1, draws, values].

    It depends on the seed and on the token's place alone, so a sequence that is given the first tokens of another one, and its seed, goes
    on as that one did. seed: any int64.
    """
    bits = np.random.Philox(key=seed % 2**64, counter=[0, 0, 0, index])
    return np.random.Generator(bits).gumbel(size=(1, draws, values)).astype(np.float32)


class Steps:
    """The graph in ONNX Runtime. draws, values: shape of the noise of a token."""

    def __init__(self, graph: str | bytes, threads: int) -> None:
        """graph: a file's path, or its content."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        shapes = {tensor.name: tensor.shape for tensor in self.session.get_inputs()}
        self.layers, _, _, self.heads, _, self.head = shapes["cache"]
        _, self.draws, self.values = shapes["noise"]
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy

    def empty_cache(self) -> Any:
        """What is remembered before the first position."""
        return self._value(np.zeros((self.layers, 2, 1, self.heads, 0, self.head), np.float32))

    def step(self, tokens: Any, label: int, cache: Any, temperature: float, top_k: int, noise: Any) -> tuple[int, Any]:
        """The token after the newest positions int32 [n], -1 at the class's, and the cache that the next call takes.

        The cache stays inside ONNX Runtime: as a numpy array it would be copied out and in at each step.
        """
        feed = {
            "tokens": self._value(np.asarray(tokens, np.int32)[None]),
            "class": self._value(np.array([label], np.int32)),
            "cache": cache,
            "temperature": self._value(np.array([temperature], np.float32)),
            "top_k": self._value(np.array([top_k], np.int32)),
            "noise": self._value(noise),
        }
        token, cache = self.session.run_with_ort_values(["next", "new_cache"], feed)
        return int(token.numpy()[0]), cache


class Sequence:
    """One request: what it asks for, how far it has come, and what its tokens are sent with."""

    def __init__(self, request: Any, sender: Any, steps: Steps, classes: int, codes: int) -> None:
        """Raises ValueError, with a sentence for the caller, when its inputs do not fit together."""
        self.sender = sender
        given = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("class", "prefix", "length", "seed", "temperature", "top_k")
        }
        self.label, self.length, self.seed, self.top_k = (int(given[name][0]) for name in ("class", "length", "seed", "top_k"))
        self.temperature = float(given["temperature"][0])
        prefix = given["prefix"]
        self.index = int((prefix >= 0).sum())
        if not -1 <= self.label < classes:
            raise ValueError(f"class is -1 (none) or 0 to {classes - 1}, not {self.label}")
        if (prefix[: self.index] < 0).any() or (prefix >= codes).any():
            raise ValueError(f"prefix is token ids from 0 to {codes - 1}, then -1 to its end")
        if not max(1, self.index) <= self.length <= len(prefix):
            raise ValueError(f"length is 1 to {len(prefix)} and not below the {self.index} tokens of the prefix, not {self.length}")
        if not 0 <= self.temperature < np.inf or self.top_k < 0:
            raise ValueError(f"temperature and top_k are 0 or more, not {self.temperature} and {self.top_k}")
        self.newest = [-1, *prefix[: self.index].tolist()]
        self.steps = steps
        self.cache = steps.empty_cache()

    def advance(self) -> bool:
        """Send one more token; whether there are more to come. A request that was cancelled, or has all its tokens, sends none."""
        if self.index < self.length and not self.sender.is_cancelled():
            noise = gumbel(self.seed, self.index, self.steps.draws, self.steps.values)
            token, self.cache = self.steps.step(self.newest, self.label, self.cache, self.temperature, self.top_k, noise)
            self.newest = [token]
            outputs = {"token": token, "index": self.index}
            self.sender.send(
                pb_utils.InferenceResponse([pb_utils.Tensor(name, np.array([value], np.int32)) for name, value in outputs.items()])
            )
            self.index += 1
            if self.index < self.length:
                return True
        self.sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return False


class TritonPythonModel:
    """One instance. Parameters of config.pbtxt that it reads: classes, codes, threads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph. args: see Triton's python backend. Raises RuntimeError under numpy 2, and what ONNX Runtime raises."""
        if int(np.__version__.split(".")[0]) >= 2:
            raise RuntimeError(
                f"numpy {np.__version__} is installed, but this Triton's python backend hands over wrong values and empty outputs under "
                "numpy 2 without an error; install numpy 1.26"
            )
        given = json.loads(args["model_config"])["parameters"]
        parameters = {name: value["string_value"] for name, value in given.items()}
        self.classes, self.codes = len(json.loads(parameters["classes"])), int(parameters["codes"])
        self.steps = Steps(str(Path(args["model_repository"]) / args["model_version"] / "model.onnx"), int(parameters["threads"]))
        self.arrived: queue.SimpleQueue[Sequence | None] = queue.SimpleQueue()  # None: stop
        self.thread = threading.Thread(target=self._take_turns, name="sequences", daemon=True)
        self.thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Take the requests in; their tokens follow through their response senders."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self.arrived.put(Sequence(request, sender, self.steps, self.classes, self.codes))
            except Exception as error:
                _fail(sender, f"the request cannot be taken: {error}")

    def finalize(self) -> None:
        """Stop the thread; sequences that are not complete end with an error."""
        self.arrived.put(None)
        self.thread.join()

    def _take_turns(self) -> None:
        turns: deque[Sequence] = deque()
        while True:
            while not turns or not self.arrived.empty():
                arrival = self.arrived.get()
                if arrival is None:
                    for sequence in turns:
                        _fail(sequence.sender, "the model is being unloaded")
                    return
                turns.append(arrival)
            sequence = turns.popleft()
            try:
                if sequence.advance():
                    turns.append(sequence)
            except Exception as error:
                _fail(sequence.sender, f"the sequence cannot go on: {error}")
            del sequence  # else the cache of one that is complete would live until the next one arrives


def _fail(sender: Any, why: str) -> None:
    pb_utils.Logger.log_error(why)
    try:
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(why)), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:  # of a request that went away: nobody is left to be told, and the other sequences go on
        pb_utils.Logger.log_error(f"an error could not be sent: {error}")
