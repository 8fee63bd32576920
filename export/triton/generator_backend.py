"""Triton python backend of a generator: streams sampled tokens from a step graph in ONNX Runtime.

`export.triton.generator_repository` copies this file beside `model.onnx` as `1/model.py`; it
imports nothing of this project.

A request is one sequence, answered in Triton's decoupled mode as its tokens are sampled. Tokens of
FLUSH_SECONDS share a response, because a response costs up to half of a small model's token. A few
threads serve all sequences round-robin, one token at a time. Every sequence has a cache of its own,
so it neither waits for another one to end nor depends on it.

A request of length 0 stops the sequence whose request had the same id, because Triton can crash
when a call is cancelled. That takes one instance that knows all sequences.
"""

import json
import os
import queue
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:
    pb_utils = None  # outside Triton, where graphs are compared with PyTorch

# ONNX Runtime sends telemetry from its import on (docs/decisions/0035).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

FLUSH_SECONDS = 0.03  # about thirty times a second, which looks continuous


def gumbel(seed: int, index: int, draws: int, values: int) -> Any:
    """Gumbel noise of token `index`: float32 [1, draws, values]. seed: any int64.

    It depends on the seed and the index alone: a sequence that continues a prefix of another one
    with the same seed samples the same tokens.
    """
    bits = np.random.Philox(key=seed % 2**64, counter=[0, 0, 0, index])
    return np.random.Generator(bits).gumbel(size=(1, draws, values)).astype(np.float32)


class Generation:
    """One running sequence. length: positions in its cache.

    Inputs and outputs are bound once: binding them for each step took a tenth of the time. Keys and
    values are input and output at once, so the graph appends to the cache in place.
    """

    def __init__(
        self, session: Any, channels: int, label: int, temperature: float, top_k: int
    ) -> None:
        """See GeneratorSession.begin."""
        self.length = 0
        self._session = session
        self._binding = session.io_binding()
        self._bound: dict[str, Any] = {}  # keeps the arrays alive: the binding does not
        shapes = {tensor.name: tensor.shape for tensor in session.get_inputs()}
        for name, shape in shapes.items():
            if name.startswith(("keys_", "values_")):
                batch, heads, _, head = shape
                self._bind(name, np.zeros((batch, heads, channels, head), np.float32))
                self._binding.bind_ortvalue_output(f"new_{name}", self._bound[name])
        self._bind("class", np.array([label], np.int32))
        self._bind("temperature", np.array([temperature], np.float32))
        self._bind("top_k", np.array([top_k], np.int32))
        self._tokens = np.zeros((1, 0), np.int32)
        self._before = self._bind("before", np.zeros(1, np.int32))
        self._noise = self._bind("noise", np.zeros(shapes["noise"], np.float32))
        self._next = self._bind("next", np.zeros(1, np.int32), output=True)
        self._logits = self._bind("logits", np.zeros(shapes["noise"], np.float32), output=True)

    def _bind(self, name: str, array: Any, output: bool = False) -> Any:
        """Bind an array that ONNX Runtime reads or writes in place, and return it."""
        import onnxruntime

        self._bound[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        bind = self._binding.bind_ortvalue_output if output else self._binding.bind_ortvalue_input
        bind(name, self._bound[name])
        return array

    def step(self, tokens: Any, noise: Any) -> tuple[int, Any]:
        """Append positions and sample: the next token and its logits [draws, values].

        tokens: the newest positions, int32 [n]; -1 at the class's position. At most `channels`
        positions in all. noise: float32 [1, draws, values].
        """
        if len(tokens) != self._tokens.shape[1]:
            self._tokens = self._bind("tokens", np.zeros((1, len(tokens)), np.int32))
        self._tokens[0] = tokens
        self._before[0] = self.length
        self._noise[:] = noise
        self._session.run_with_iobinding(self._binding)
        self.length += len(tokens)
        return int(self._next[0]), self._logits[0].copy()


class GeneratorSession:
    """A step graph in ONNX Runtime.

    draws, values: shape of a token's noise. channels: largest number of tokens in a sequence.
    """

    def __init__(self, graph: str | bytes, threads: int) -> None:
        """graph: path of a file, or its content. threads: of one step."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        _, self.draws, self.values = next(
            tensor.shape for tensor in self.session.get_inputs() if tensor.name == "noise"
        )
        self.channels = int(self.session.get_modelmeta().custom_metadata_map["channels"])

    def begin(self, label: int, temperature: float, top_k: int) -> Generation:
        """Start a sequence. label: class id, -1 = none. temperature: 0 = greedy. top_k: 0 = all."""
        return Generation(self.session, self.channels, label, temperature, top_k)


class SequenceRequest:
    """A request, its progress and its response sender. stopped: the caller wants no more tokens."""

    def __init__(
        self, request: Any, sender: Any, session: GeneratorSession, classes: int, codes: int
    ) -> None:
        """Raises ValueError, with a message for the caller, for inputs that are not valid."""
        self.sender, self.stopped = sender, False
        self.unsent: list[int] = []
        self.sent_at = 0.0
        inputs = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("class", "prefix", "length", "seed", "temperature", "top_k")
        }
        label, self.length, self.seed, top_k = (
            int(inputs[name][0]) for name in ("class", "length", "seed", "top_k")
        )
        temperature = float(inputs["temperature"][0])
        prefix = inputs["prefix"]
        self.index = int((prefix >= 0).sum())
        if not -1 <= label < classes:
            raise ValueError(f"class is -1 (none) or 0 to {classes - 1}, not {label}")
        if (prefix[: self.index] < 0).any() or (prefix >= codes).any():
            raise ValueError(f"prefix is token ids from 0 to {codes - 1}, then -1 to its end")
        if not max(1, self.index) <= self.length <= len(prefix):
            raise ValueError(
                f"length is 1 to {len(prefix)} and not below the {self.index} tokens of the "
                f"prefix, not {self.length}"
            )
        if not 0 <= temperature < np.inf or top_k < 0:
            raise ValueError(f"temperature and top_k are 0 or more, not {temperature} and {top_k}")
        self.newest = [-1, *prefix[: self.index].tolist()]
        self.session = session
        self.generation = session.begin(label, temperature, top_k)

    def advance(self) -> bool:
        """Sample one more token unless stopped, cancelled or complete. Returns whether to go on."""
        if self.index < self.length and not self.stopped and not self.sender.is_cancelled():
            noise = gumbel(self.seed, self.index, self.session.draws, self.session.values)
            token, _ = self.generation.step(self.newest, noise)
            self.newest = [token]
            self.unsent.append(token)
            self.index += 1
            if self.index == self.length or time.monotonic() - self.sent_at >= FLUSH_SECONDS:
                self._send()
            if self.index < self.length:
                return True
        self.sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return False

    def _send(self) -> None:
        outputs = {"token": self.unsent, "index": [self.index - len(self.unsent)]}
        self.sender.send(
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(name, np.array(value, np.int32))
                    for name, value in outputs.items()
                ]
            )
        )
        self.unsent, self.sent_at = [], time.monotonic()


class TritonPythonModel:
    """The only instance of the model.

    It reads these parameters of config.pbtxt: classes, codes, at_once (sequences that compute at
    the same time) and threads (of each of them).
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph. Raises RuntimeError under numpy 2, and what ONNX Runtime raises.

        args: see Triton's python backend.
        """
        if int(np.__version__.split(".")[0]) >= 2:
            raise RuntimeError(
                f"numpy {np.__version__} is installed; this Triton's python backend returns wrong "
                "values and empty outputs under numpy 2 without an error: install numpy 1.26"
            )
        config = json.loads(args["model_config"])["parameters"]
        parameters = {name: value["string_value"] for name, value in config.items()}
        self.classes, self.codes = len(json.loads(parameters["classes"])), int(parameters["codes"])
        self.session = GeneratorSession(
            str(Path(args["model_repository"]) / args["model_version"] / "model.onnx"),
            int(parameters["threads"]),
        )
        self.runnable: queue.SimpleQueue[SequenceRequest | None] = queue.SimpleQueue()  # None: stop
        # Sequences that are not complete.
        self.by_id: weakref.WeakValueDictionary[str, SequenceRequest] = (
            weakref.WeakValueDictionary()
        )
        self.threads = [
            threading.Thread(target=self._serve, name="sequences", daemon=True)
            for _ in range(int(parameters["at_once"]))
        ]
        for thread in self.threads:
            thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Accept requests; their tokens follow through their response senders."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                if pb_utils.get_input_tensor_by_name(request, "length").as_numpy()[0] == 0:
                    self._stop(request.request_id())
                    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                else:
                    self._begin(
                        SequenceRequest(request, sender, self.session, self.classes, self.codes),
                        request.request_id(),
                    )
            except Exception as error:
                _fail(sender, f"the request is not valid: {error}")

    def finalize(self) -> None:
        """Stop the threads; incomplete sequences end with an error."""
        self.runnable.put(None)
        for thread in self.threads:
            thread.join()
        while not self.runnable.empty():
            sequence = self.runnable.get()
            if sequence is not None:
                _fail(sequence.sender, "the model is being unloaded")

    def _begin(self, sequence: SequenceRequest, identity: str) -> None:
        self.by_id[identity] = sequence
        self.runnable.put(sequence)

    def _stop(self, identity: str) -> None:
        sequence = self.by_id.get(identity)
        if sequence is not None:
            sequence.stopped = True

    def _serve(self) -> None:
        while True:
            sequence = self.runnable.get()
            if sequence is None:
                self.runnable.put(None)  # for the next thread
                return
            try:
                while sequence.advance():
                    # A lone sequence stays, with its cache, on this thread's core.
                    if not self.runnable.empty():
                        self.runnable.put(sequence)
                        break
            except Exception as error:
                _fail(sequence.sender, f"the sequence cannot continue: {error}")
            del sequence  # frees the cache of a complete sequence before the next one arrives


def _fail(sender: Any, message: str) -> None:
    pb_utils.Logger.log_error(message)
    try:
        sender.send(
            pb_utils.InferenceResponse(error=pb_utils.TritonError(message)),
            flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
        )
    except Exception as error:  # the request is gone; the other sequences continue
        pb_utils.Logger.log_error(f"an error could not be sent: {error}")
