"""Triton python backend of a generator: streams sampled tokens from a step graph in ONNX Runtime.

`export.triton.generator_repository` copies this file beside `model.onnx` as `1/model.py`; it
imports nothing of this project.

A request is one sequence, answered in Triton's decoupled mode as its tokens are sampled. A few
threads advance all sequences: each step of a thread is one run of the graph and one token of all
its sequences (continuous batching). Every sequence has a cache of its own, so it neither waits for
another one to end nor depends on it. Tokens of FLUSH_SECONDS share a response, because a response
costs up to half of a small model's token.

A request of length 0 stops the sequence whose request had the same id, because Triton can crash
when a call is cancelled. That takes one instance that knows all sequences.
"""

import json
import os
import threading
import time
import weakref
from collections import deque
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
    """Gumbel noise of token `index`: float32 [draws, values]. seed: any int64.

    It depends on the seed and the index alone: a sequence that continues a prefix of another one
    with the same seed samples the same tokens.
    """
    bits = np.random.Philox(key=seed % 2**64, counter=[0, 0, 0, index])
    return np.random.Generator(bits).gumbel(size=(draws, values)).astype(np.float32)


class Batch:
    """Inputs, outputs and caches of up to `size` sequences; row i of each array is a sequence's.

    Arrays are bound once for each number of rows: binding them for each step took a tenth of the
    time. Keys and values are input and output at once, so the graph appends to the caches in place.

    label, before, temperature, top_k: [size], how each sequence is sampled and its positions so
    far. newest: int32 [size, 1], the token of the last position; -1 at the class's position.
    noise: float32 [size, draws, values]. next, logits: what the last step made.
    """

    def __init__(self, session: Any, channels: int, size: int) -> None:
        """session: an ONNX Runtime session of a step graph. channels: positions of a cache."""
        self._session = session
        shapes = {tensor.name: tensor.shape for tensor in session.get_inputs()}
        _, draws, values = shapes["noise"]
        self.label = np.zeros(size, np.int32)
        self.before = np.zeros(size, np.int32)
        self.temperature = np.zeros(size, np.float32)
        self.top_k = np.zeros(size, np.int32)
        self.newest = np.zeros((size, 1), np.int32)
        self.noise = np.zeros((size, draws, values), np.float32)
        self.next = np.zeros(size, np.int32)
        self.logits = np.zeros((size, draws, values), np.float32)
        # Memory of a row is taken when a sequence first uses it.
        self._caches = {
            name: np.zeros((size, shape[1], channels, shape[3]), np.float32)
            for name, shape in shapes.items()
            if name.startswith(("keys_", "values_"))
        }
        self._bindings: dict[int, tuple[Any, list[Any]]] = {}

    def begin(self, row: int, label: int, temperature: float, top_k: int) -> None:
        """Start a sequence in a row. label: class id, -1 = none. See GeneratorStep's inputs."""
        self.label[row], self.temperature[row], self.top_k[row] = label, temperature, top_k
        self.before[row], self.newest[row] = 0, -1

    def append(self, row: int, tokens: Any) -> None:
        """Append several positions of one sequence and sample. tokens: int32 [n]; -1: the class."""
        binding, _ = self._bind(slice(row, row + 1), np.array([tokens], np.int32))
        self._session.run_with_iobinding(binding)
        self.before[row] += len(tokens)

    def step(self, rows: int) -> None:
        """Append the newest token of each of the first `rows` sequences and sample."""
        if rows not in self._bindings:
            self._bindings[rows] = self._bind(slice(rows), self.newest[:rows])
        binding, _ = self._bindings[rows]
        self._session.run_with_iobinding(binding)
        self.before[:rows] += 1

    def move(self, source: int, target: int) -> None:
        """Continue the sequence of one row in another."""
        length = self.before[source]
        for cache in self._caches.values():
            cache[target, :, :length] = cache[source, :, :length]
        for array in (self.label, self.before, self.temperature, self.top_k, self.newest):
            array[target] = array[source]

    def _bind(self, rows: slice, tokens: Any) -> tuple[Any, list[Any]]:
        """A binding to rows of the arrays, which ONNX Runtime reads and writes in place.

        tokens: int32 [rows, n]. Also returns what must live as long: a binding does not hold it.
        """
        import onnxruntime

        binding, held = self._session.io_binding(), []

        def bind(name: str, array: Any, *sides: Any) -> None:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            held.append((value, array))
            for side, prefix in sides:
                side(prefix + name, value)

        inputs, outputs = (binding.bind_ortvalue_input, ""), (binding.bind_ortvalue_output, "")
        bind("tokens", tokens, inputs)
        bind("class", self.label[rows], inputs)
        for name in ("before", "temperature", "top_k", "noise"):
            bind(name, getattr(self, name)[rows], inputs)
        for name in ("next", "logits"):
            bind(name, getattr(self, name)[rows], outputs)
        for name, cache in self._caches.items():
            bind(name, cache[rows], inputs, (binding.bind_ortvalue_output, "new_"))
        return binding, held


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

    def batch(self, size: int) -> Batch:
        """Room for `size` sequences."""
        return Batch(self.session, self.channels, size)


class SequenceRequest:
    """A request, its progress and its response sender. stopped: the caller wants no more tokens.

    index: of the next token. prompt: the class's position and the prefix, int [1 + j].
    """

    def __init__(self, request: Any, sender: Any, channels: int, classes: int, codes: int) -> None:
        """Raises ValueError, with a message for the caller, for inputs that are not valid."""
        self.sender, self.stopped = sender, False
        self.unsent: list[int] = []
        self.sent_at = 0.0
        inputs = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("class", "prefix", "length", "seed", "temperature", "top_k")
        }
        self.label, self.length, self.seed, self.top_k = (
            int(inputs[name][0]) for name in ("class", "length", "seed", "top_k")
        )
        self.temperature = float(inputs["temperature"][0])
        prefix = inputs["prefix"]
        self.index = int((prefix >= 0).sum())
        if not -1 <= self.label < classes:
            raise ValueError(f"class is -1 (none) or 0 to {classes - 1}, not {self.label}")
        if (prefix[: self.index] < 0).any() or (prefix >= codes).any():
            raise ValueError(f"prefix is token ids from 0 to {codes - 1}, then -1 to its end")
        if not max(1, self.index) <= self.length <= channels:
            raise ValueError(
                f"length is 1 to {channels} and not below the {self.index} tokens of the "
                f"prefix, not {self.length}"
            )
        if not 0 <= self.temperature < np.inf or self.top_k < 0:
            raise ValueError(
                f"temperature and top_k are 0 or more, not {self.temperature} and {self.top_k}"
            )
        self.prompt = [-1, *prefix[: self.index].tolist()]

    @property
    def is_over(self) -> bool:
        """Whether it is complete, or its caller wants no more tokens."""
        return self.index >= self.length or self.stopped

    def add(self, token: int) -> None:
        """Take the next token, and send all that wait where it is time."""
        self.unsent.append(token)
        self.index += 1
        if self.index == self.length or time.monotonic() - self.sent_at >= FLUSH_SECONDS:
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
            # Not for each token: it asks Triton's process and waits.
            self.stopped |= self.sender.is_cancelled()

    def end(self) -> None:
        """Tell the caller that no more tokens follow."""
        self.sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class Scheduler:
    """Sequences that wait, and how many each thread advances. All threads use it."""

    def __init__(self, threads: int, most: int) -> None:
        """most: sequences of a thread."""
        self._most = most
        self._waiting: deque[SequenceRequest] = deque()
        self._running = [0] * threads
        self._changed = threading.Condition()
        self._stopped = False

    def put(self, sequence: SequenceRequest) -> None:
        """Let one of the threads begin a sequence."""
        with self._changed:
            self._waiting.append(sequence)
            self._changed.notify_all()

    def take(self, thread: int) -> list[SequenceRequest] | None:
        """Sequences for a thread to begin, as long as no other one has fewer; None: stop.

        Blocks while the thread has nothing to do.
        """
        with self._changed:
            while not self._stopped:
                taken = []
                while self._waiting and self._running[thread] < self._most:
                    if self._running[thread] > min(self._running):
                        break
                    taken.append(self._waiting.popleft())
                    self._running[thread] += 1
                if taken or self._running[thread]:
                    return taken
                self._changed.wait()
            return None

    def release(self, thread: int) -> None:
        """A sequence of a thread has ended."""
        with self._changed:
            self._running[thread] -= 1
            self._changed.notify_all()

    def stop(self) -> list[SequenceRequest]:
        """Let all threads stop. Returns the sequences that nobody began."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            return list(self._waiting)


class StepLoop(threading.Thread):
    """A thread and the sequences that it advances; sequence i has row i of the batch."""

    def __init__(
        self, number: int, scheduler: Scheduler, session: GeneratorSession, most: int
    ) -> None:
        """number: of this thread. most: sequences at the same time."""
        super().__init__(name=f"sequences-{number}", daemon=True)
        self._number, self._scheduler = number, scheduler
        self._batch = session.batch(most)
        self._sequences: list[SequenceRequest] = []

    def run(self) -> None:
        """Advance sequences until the scheduler stops; those that are incomplete then fail."""
        while self._begin():
            self._advance()
        for sequence in self._sequences:
            _fail(sequence.sender, "the model is being unloaded")

    def _begin(self) -> bool:
        """Begin the sequences that this thread is to take. Returns whether to go on."""
        new = self._scheduler.take(self._number)
        for sequence in new or ():
            row = len(self._sequences)
            self._sequences.append(sequence)
            self._batch.begin(row, sequence.label, sequence.temperature, sequence.top_k)
            if len(sequence.prompt) > 1 and not sequence.is_over:
                try:
                    self._draw(row)
                    self._batch.append(row, sequence.prompt)
                except Exception as error:
                    self._leave(row, error)
                else:
                    self._take(row)
        return new is not None

    def _advance(self) -> None:
        """Sample one more token of each sequence that is not over."""
        for row in self._rows():
            if self._sequences[row].is_over:
                self._leave(row)
        if not self._sequences:
            return
        try:
            for row in self._rows():
                self._draw(row)
            self._batch.step(len(self._sequences))
        except Exception as error:
            for row in self._rows():
                self._leave(row, error)
        for row in self._rows():
            self._take(row)

    def _rows(self) -> range:
        """All rows from the last to the first, because the last one moves where one leaves."""
        return range(len(self._sequences) - 1, -1, -1)

    def _draw(self, row: int) -> None:
        sequence, (_, draws, values) = self._sequences[row], self._batch.noise.shape
        self._batch.noise[row] = gumbel(sequence.seed, sequence.index, draws, values)

    def _take(self, row: int) -> None:
        """Give a sequence the token that was sampled for it."""
        token = int(self._batch.next[row])
        self._batch.newest[row] = token
        try:
            self._sequences[row].add(token)
        except Exception as error:
            self._leave(row, error)

    def _leave(self, row: int, error: Exception | None = None) -> None:
        """End a sequence; the last one takes its row."""
        sequence, last = self._sequences[row], self._sequences.pop()
        if last is not sequence:
            self._sequences[row] = last
            self._batch.move(len(self._sequences), row)
        self._scheduler.release(self._number)
        if error is None:
            try:
                sequence.end()
            except Exception as failure:
                error = failure
        if error is not None:
            _fail(sequence.sender, f"the sequence cannot continue: {error}")


class TritonPythonModel:
    """The only instance of the model.

    It reads these parameters of config.pbtxt: classes, codes, at_once (threads that advance
    sequences), threads (of one step) and sequences (of one step, at most).
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
        session = GeneratorSession(
            str(Path(args["model_repository"]) / args["model_version"] / "model.onnx"),
            int(parameters["threads"]),
        )
        self.channels = session.channels
        at_once, sequences = int(parameters["at_once"]), int(parameters["sequences"])
        self.scheduler = Scheduler(at_once, sequences)
        # Sequences that are not complete.
        self.by_id: weakref.WeakValueDictionary[str, SequenceRequest] = (
            weakref.WeakValueDictionary()
        )
        self.loops = [
            StepLoop(number, self.scheduler, session, sequences) for number in range(at_once)
        ]
        for loop in self.loops:
            loop.start()

    def execute(self, requests: list[Any]) -> None:
        """Accept requests; their tokens follow through their response senders."""
        for request in requests:
            sender, identity = request.get_response_sender(), request.request_id()
            try:
                if pb_utils.get_input_tensor_by_name(request, "length").as_numpy()[0] == 0:
                    self._stop(identity)
                    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                else:
                    sequence = SequenceRequest(
                        request, sender, self.channels, self.classes, self.codes
                    )
                    self.by_id[identity] = sequence
                    self.scheduler.put(sequence)
            except Exception as error:
                _fail(sender, f"the request is not valid: {error}")

    def finalize(self) -> None:
        """Stop the threads; incomplete sequences end with an error."""
        waiting = self.scheduler.stop()
        for loop in self.loops:
            loop.join()
        for sequence in waiting:
            _fail(sequence.sender, "the model is being unloaded")

    def _stop(self, identity: str) -> None:
        sequence = self.by_id.get(identity)
        if sequence is not None:
            sequence.stopped = True


def _fail(sender: Any, message: str) -> None:
    pb_utils.Logger.log_error(message)
    try:
        sender.send(
            pb_utils.InferenceResponse(error=pb_utils.TritonError(message)),
            flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
        )
    except Exception as error:  # the request is gone; the other sequences continue
        pb_utils.Logger.log_error(f"an error could not be sent: {error}")
