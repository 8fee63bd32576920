"""Triton's python backend around a generator's step graph. `export.triton.generator_repository` copies this file into the model as `1/model.py`.

It stands alone beside `model.onnx`. One request is one sequence, answered as its tokens are made (Triton's decoupled mode): each by itself,
or those of TOGETHER_SECONDS in one response, for a response costs up to half of a small model's token. A few threads take all
sequences in turn, for a token each, every one alone and with a cache of its own: a sequence neither waits for the end of another nor
changes with it. A request of length 0 stops the sequence whose request had the same id, for Triton may die of a call that is cancelled;
so there is one instance, which knows them all.
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
    pb_utils = None  # outside Triton, where exports are compared with PyTorch

# ONNX Runtime reports its use from its import on (docs/decisions/0035).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

TOGETHER_SECONDS = 0.01  # a screen shows an image every 16 ms


def gumbel(seed: int, index: int, draws: int, values: int) -> Any:
    """The noise of token `index`: Gumbel, float32 [1, draws, values].

    It depends on the seed and on the token's place alone, so a sequence that is given the first tokens of another one, and its seed, goes
    on as that one did. seed: any int64.
    """
    bits = np.random.Philox(key=seed % 2**64, counter=[0, 0, 0, index])
    return np.random.Generator(bits).gumbel(size=(1, draws, values)).astype(np.float32)


class Generation:
    """One sequence in the making. What the graph reads and writes is bound to it once: binding it for each step took a tenth of the time.
    Keys and values are input and output at once, so new ones are written behind those there are.

    length: how many positions there are.
    """

    def __init__(
        self, session: Any, channels: int, label: int, temperature: float, top_k: int
    ) -> None:
        """See GeneratorSession.begin."""
        self.length = 0
        self._session = session
        self._binding = session.io_binding()
        self._bound: dict[str, Any] = {}  # the binding alone would not keep the arrays' memory
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
        """The array itself, which ONNX Runtime reads, or writes, where it lies."""
        import onnxruntime

        self._bound[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        bind = self._binding.bind_ortvalue_output if output else self._binding.bind_ortvalue_input
        bind(name, self._bound[name])
        return array

    def step(self, tokens: Any, noise: Any) -> tuple[int, Any]:
        """The token after the newest positions int32 [n], -1 at the class's, and the logits [draws, values] it was drawn from.

        noise: float32 [1, draws, values]. With the newest, positions are `channels` at most.
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
    """The graph in ONNX Runtime. draws, values: shape of the noise of a token. channels: tokens of a sequence at most."""

    def __init__(self, graph: str | bytes, threads: int) -> None:
        """graph: a file's path, or its content."""
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
        """A sequence without any position yet. label: of the class, -1 = none. temperature: 0 = the likeliest. top_k: 0 = all values."""
        return Generation(self.session, self.channels, label, temperature, top_k)


class Sequence:
    """One request: what it asks for, how far it has come, and what its tokens are sent with. stopped: nobody wants more of it."""

    def __init__(
        self, request: Any, sender: Any, steps: GeneratorSession, classes: int, codes: int
    ) -> None:
        """Raises ValueError, with a sentence for the caller, when its inputs do not fit together."""
        self.sender, self.stopped = sender, False
        self.unsent: list[int] = []
        self.sent_at = 0.0
        given = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("class", "prefix", "length", "seed", "temperature", "top_k")
        }
        label, self.length, self.seed, top_k = (
            int(given[name][0]) for name in ("class", "length", "seed", "top_k")
        )
        temperature = float(given["temperature"][0])
        prefix = given["prefix"]
        self.index = int((prefix >= 0).sum())
        if not -1 <= label < classes:
            raise ValueError(f"class is -1 (none) or 0 to {classes - 1}, not {label}")
        if (prefix[: self.index] < 0).any() or (prefix >= codes).any():
            raise ValueError(f"prefix is token ids from 0 to {codes - 1}, then -1 to its end")
        if not max(1, self.index) <= self.length <= len(prefix):
            raise ValueError(
                f"length is 1 to {len(prefix)} and not below the {self.index} tokens of the prefix, not {self.length}"
            )
        if not 0 <= temperature < np.inf or top_k < 0:
            raise ValueError(f"temperature and top_k are 0 or more, not {temperature} and {top_k}")
        self.newest = [-1, *prefix[: self.index].tolist()]
        self.steps = steps
        self.generation = steps.begin(label, temperature, top_k)

    def advance(self) -> bool:
        """Make one more token; whether there are more to come. One that was stopped, cancelled or has all its tokens makes none."""
        if self.index < self.length and not self.stopped and not self.sender.is_cancelled():
            noise = gumbel(self.seed, self.index, self.steps.draws, self.steps.values)
            token, _ = self.generation.step(self.newest, noise)
            self.newest = [token]
            self.unsent.append(token)
            self.index += 1
            if self.index == self.length or time.monotonic() - self.sent_at >= TOGETHER_SECONDS:
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
    """The one instance. Parameters of config.pbtxt that it reads: classes; codes; at_once, tokens that are made at a time; threads, for
    each of them."""

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
        self.steps = GeneratorSession(
            str(Path(args["model_repository"]) / args["model_version"] / "model.onnx"),
            int(parameters["threads"]),
        )
        self.turns: queue.SimpleQueue[Sequence | None] = queue.SimpleQueue()  # None: stop
        self.by_id: weakref.WeakValueDictionary[str, Sequence] = (
            weakref.WeakValueDictionary()
        )  # those that are not complete
        self.threads = [
            threading.Thread(target=self._take_turns, name="sequences", daemon=True)
            for _ in range(int(parameters["at_once"]))
        ]
        for thread in self.threads:
            thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Take the requests in; their tokens follow through their response senders."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                if pb_utils.get_input_tensor_by_name(request, "length").as_numpy()[0] == 0:
                    self._stop(request.request_id())
                    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                else:
                    self._begin(
                        Sequence(request, sender, self.steps, self.classes, self.codes),
                        request.request_id(),
                    )
            except Exception as error:
                _fail(sender, f"the request cannot be taken: {error}")

    def finalize(self) -> None:
        """Stop the threads; sequences that are not complete end with an error."""
        self.turns.put(None)
        for thread in self.threads:
            thread.join()
        while not self.turns.empty():
            sequence = self.turns.get()
            if sequence is not None:
                _fail(sequence.sender, "the model is being unloaded")

    def _begin(self, sequence: Sequence, identity: str) -> None:
        self.by_id[identity] = sequence
        self.turns.put(sequence)

    def _stop(self, identity: str) -> None:
        sequence = self.by_id.get(identity)
        if sequence is not None:
            sequence.stopped = True

    def _take_turns(self) -> None:
        while True:
            sequence = self.turns.get()
            if sequence is None:
                self.turns.put(None)  # for the next thread
                return
            try:
                while sequence.advance():
                    if (
                        not self.turns.empty()
                    ):  # else it stays, with its cache, on this thread's core
                        self.turns.put(sequence)
                        break
            except Exception as error:
                _fail(sequence.sender, f"the sequence cannot go on: {error}")
            del (
                sequence
            )  # else the cache of one that is complete would live until the next one arrives


def _fail(sender: Any, why: str) -> None:
    pb_utils.Logger.log_error(why)
    try:
        sender.send(
            pb_utils.InferenceResponse(error=pb_utils.TritonError(why)),
            flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
        )
    except Exception as error:  # of a request that went away: nobody is left to be told, and the other sequences go on
        pb_utils.Logger.log_error(f"an error could not be sent: {error}")
