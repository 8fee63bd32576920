"""Triton python backend of a generator: streams sampled tokens from a step graph in ONNX Runtime.

`export.triton.generator_repository` copies this file beside `model.onnx` as `1/model.py`; it
imports nothing of this project.

A request is one sequence, answered in Triton's decoupled mode as its tokens are sampled. A few
threads advance all sequences: each step of a thread is one run of the graph and one token of all
its sequences (continuous batching). Every sequence has a cache of its own, so it neither waits for
another one to end nor depends on it. Tokens of FLUSH_SECONDS share a response, because a response
costs up to half of a small model's token.

What an image shall show is at the positions before its tokens, as ids below 0: a class, or a text,
which the language model's own tokenizer reads here (`tokenizer.json` beside this file). A sequence
with classifier-free guidance has two rows of each step: its own, and a partner's that starts
without class or text (generator/output_head.py).

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

NO_CLASS, START = [-1], [-1]  # first positions of an image: of no class; after a text
FLUSH_SECONDS = 0.03  # about thirty times a second, which looks continuous
# How a sequence is sampled, see generator/output_head.py: inputs of the request and of the graph.
SAMPLING = {
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "guidance": np.float32,
}


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

    before, sampling: [size], each sequence's positions so far, and how it is sampled.
    partner, leader: int32 [size], the row of guidance, and the row whose token a row takes.
    newest: int32 [size, 1], the id at the last position, which the next step reads.
    noise: float32 [size, draws, values]. next, logits: what the last step made.
    """

    def __init__(self, session: Any, positions: int, size: int) -> None:
        """session: an ONNX Runtime session of a step graph. positions: of a cache."""
        self._session = session
        shapes = {tensor.name: tensor.shape for tensor in session.get_inputs()}
        _, draws, values = shapes["noise"]
        self.before = np.zeros(size, np.int32)
        self.sampling = {name: np.zeros(size, kind) for name, kind in SAMPLING.items()}
        self.partner = np.arange(size, dtype=np.int32)
        self.leader = np.arange(size, dtype=np.int32)
        self.newest = np.zeros((size, 1), np.int32)
        self.noise = np.zeros((size, draws, values), np.float32)
        self.next = np.zeros(size, np.int32)
        self.logits = np.zeros((size, draws, values), np.float32)
        # Memory of a row is taken when a sequence first uses it.
        self._caches = {
            name: np.zeros((size, shape[1], positions, shape[3]), np.float32)
            for name, shape in shapes.items()
            if name.startswith(("keys_", "values_"))
        }
        self._bindings: dict[int, tuple[Any, list[Any]]] = {}

    def begin(
        self,
        row: int,
        prompt: list[int],
        temperature: float,
        top_k: int,
        top_p: float = 1.0,
        guidance: float = 1.0,
    ) -> None:
        """Start a sequence in a row.

        prompt: its first ids, at least one. The others: see generator/output_head.py.
        """
        self.before[row] = 0
        values = (temperature, top_k, top_p, guidance)
        for array, value in zip(self.sampling.values(), values, strict=True):
            array[row] = value
        self.link([row])
        *earlier, self.newest[row] = prompt
        if earlier:
            self.append(row, earlier)

    def link(self, rows: list[int]) -> None:
        """Let rows be one sequence: its own, and the one that guides it, if any."""
        self.partner[rows], self.leader[rows] = rows[-1], rows[0]

    def append(self, row: int, tokens: Any) -> None:
        """Append positions of one row that the next step goes on from; what it samples is unused.

        tokens: ids, int [n].
        """
        alone = np.zeros(1, np.int32)
        binding, _ = self._bind(
            slice(row, row + 1), np.array([tokens], np.int32), partner=alone, leader=alone
        )
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
        """Continue what one row does in another; `link` it afterwards."""
        length = self.before[source]
        for cache in self._caches.values():
            cache[target, :, :length] = cache[source, :, :length]
        for array in (self.before, self.newest, *self.sampling.values()):
            array[target] = array[source]

    def _bind(self, rows: slice, tokens: Any, **instead: Any) -> tuple[Any, list[Any]]:
        """A binding to rows of the arrays, which ONNX Runtime reads and writes in place.

        tokens: int32 [rows, n]. instead: arrays in place of rows of those of the same names.
        Also returns what must live as long: a binding does not hold it.
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
        arrays = {name: array[rows] for name, array in self.sampling.items()}
        for name in ("before", "partner", "leader", "noise"):
            arrays[name] = getattr(self, name)[rows]
        for name, array in {**arrays, **instead}.items():
            bind(name, array, inputs)
        for name in ("next", "logits"):
            bind(name, getattr(self, name)[rows], outputs)
        for name, cache in self._caches.items():
            bind(name, cache[rows], inputs, (binding.bind_ortvalue_output, "new_"))
        return binding, held


class GeneratorSession:
    """A step graph in ONNX Runtime.

    draws, values: shape of a token's noise. channels: largest number of tokens in a sequence.
    positions: of its cache.
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
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.channels, self.positions = int(metadata["channels"]), int(metadata["positions"])

    def batch(self, size: int) -> Batch:
        """Room for `size` sequences."""
        return Batch(self.session, self.positions, size)


class ClassCondition:
    """First position of an image by a GPT: its class, input `class`, -1 = none."""

    input, without = "class", NO_CLASS

    def __init__(self, count: int) -> None:
        self._count = count

    def start(self, value: Any) -> list[int]:
        """First ids of a sequence. value: int32 [1]. Raises ValueError for another class."""
        (label,) = value.tolist()
        if not -1 <= label < self._count:
            raise ValueError(f"class is -1 (none) or 0 to {self._count - 1}, not {label}")
        return [-2 - label]


class TextCondition:
    """First positions of an image by CAR: a text, input `prompt`, empty = none."""

    input = "prompt"

    def __init__(self, tokenizer: Path, none: str, positions: int) -> None:
        """tokenizer: tokenizer.json of the language model. none: the text that stands for none.

        positions: room for a text.
        """
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._positions = positions
        self._none = none.encode()
        self.without = self.start(np.zeros(0, np.uint8))

    def start(self, value: Any) -> list[int]:
        """First ids of a sequence. value: UTF-8 as uint8 [n]. Raises ValueError for a long text."""
        text = (value.tobytes() or self._none).decode()
        ids = self._tokenizer.encode(text).ids
        if len(ids) > self._positions:
            raise ValueError(f"the prompt has {len(ids)} tokens; at most {self._positions} fit")
        return [*(-2 - token for token in ids), *START]


Condition = ClassCondition | TextCondition


class SequenceRequest:
    """A request, its progress and its response sender. stopped: the caller wants no more tokens.

    index: of the next token. prompts: first ids of each of its rows, two with guidance. rows: those
    it has in a step.
    """

    def __init__(
        self, request: Any, sender: Any, condition: Condition, channels: int, codes: int
    ) -> None:
        """Raises ValueError, with a message for the caller, for inputs that are not valid."""
        self.sender, self.stopped = sender, False
        self.unsent: list[int] = []
        self.sent_at = 0.0
        names = (condition.input, "prefix", "length", "seed", *SAMPLING, "final_temperature")
        inputs = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in names
        }
        self.length, self.seed = (int(inputs[name][0]) for name in ("length", "seed"))
        self.sampling = {name: inputs[name][0] for name in SAMPLING}
        prefix = inputs["prefix"]
        self.index = int((prefix >= 0).sum())
        start = condition.start(inputs[condition.input])
        if (prefix[: self.index] < 0).any() or (prefix >= codes).any():
            raise ValueError(f"prefix is token ids from 0 to {codes - 1}, then -1 to its end")
        if not max(1, self.index) <= self.length <= channels:
            raise ValueError(
                f"length is 1 to {channels} and not below the {self.index} tokens of the "
                f"prefix, not {self.length}"
            )
        temperature, top_k, top_p, guidance = self.sampling.values()
        final = inputs["final_temperature"][0]
        if not 0 <= temperature < np.inf or not 0 <= final < np.inf or top_k < 0:
            raise ValueError(
                f"temperature, final_temperature and top_k are 0 or more, not {temperature}, "
                f"{final} and {top_k}"
            )
        self._temperatures = np.linspace(temperature, final, channels, dtype=np.float32)
        if not 0 < top_p <= 1 or not 0 <= guidance < np.inf:
            raise ValueError(
                f"top_p is over 0 to 1 and guidance 0 or more, not {top_p} and {guidance}"
            )
        # Without class or text there is nothing to be guided towards.
        guided = guidance != 1 and start != condition.without
        starts = [start, condition.without] if guided else [start]
        self.prompts = [[*ids, *prefix[: self.index].tolist()] for ids in starts]
        self.rows = [-1] * len(self.prompts)

    @property
    def is_over(self) -> bool:
        """Whether it is complete, or its caller wants no more tokens."""
        return self.index >= self.length or self.stopped

    @property
    def temperature(self) -> float:
        """Of the next token: from `temperature` linearly to `final_temperature` at the last one."""
        return float(self._temperatures[self.index])

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
    """Sequences that wait, and how many rows each thread advances. All threads use it."""

    def __init__(self, threads: int, most: int) -> None:
        """most: rows of a thread's step."""
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
                    rows = len(self._waiting[0].rows)
                    full = self._running[thread] and self._running[thread] + rows > self._most
                    if full or self._running[thread] > min(self._running):
                        break
                    taken.append(self._waiting.popleft())
                    self._running[thread] += rows
                if taken or self._running[thread]:
                    return taken
                self._changed.wait()
            return None

    def release(self, thread: int, rows: int) -> None:
        """A sequence of a thread has ended, which had so many rows."""
        with self._changed:
            self._running[thread] -= rows
            self._changed.notify_all()

    def stop(self) -> list[SequenceRequest]:
        """Let all threads stop. Returns the sequences that nobody began."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            return list(self._waiting)


class StepLoop(threading.Thread):
    """A thread and the sequences that it advances; entry i owns row i of the batch."""

    def __init__(
        self, number: int, scheduler: Scheduler, session: GeneratorSession, most: int
    ) -> None:
        """number: of this thread. most: rows of a step, at least the two of a guided sequence."""
        super().__init__(name=f"sequences-{number}", daemon=True)
        self._number, self._scheduler = number, scheduler
        self._batch = session.batch(max(2, most))
        self._owners: list[SequenceRequest] = []

    def run(self) -> None:
        """Advance sequences until the scheduler stops; those that are incomplete then fail."""
        while self._begin():
            self._advance()
        for sequence in self._sequences():
            _fail(sequence.sender, "the model is being unloaded")

    def _begin(self) -> bool:
        """Begin the sequences that this thread is to take. Returns whether to go on."""
        new = self._scheduler.take(self._number)
        for sequence in new or ():
            first = len(self._owners)
            sequence.rows = [first + i for i in range(len(sequence.rows))]
            self._owners += [sequence] * len(sequence.rows)
            if sequence.is_over:
                continue
            try:
                for row, prompt in zip(sequence.rows, sequence.prompts, strict=True):
                    self._batch.begin(row, prompt, **sequence.sampling)
                self._batch.link(sequence.rows)
            except Exception as error:
                self._leave(sequence, error)
        return new is not None

    def _advance(self) -> None:
        """Sample one more token of each sequence that is not over."""
        for sequence in self._sequences():
            if sequence.is_over:
                self._leave(sequence)
        if not self._owners:
            return
        try:
            _, draws, values = self._batch.noise.shape
            for sequence in self._sequences():
                noise = gumbel(sequence.seed, sequence.index, draws, values)
                self._batch.noise[sequence.rows[0]] = noise
                self._batch.sampling["temperature"][sequence.rows] = sequence.temperature
            self._batch.step(len(self._owners))
        except Exception as error:
            for sequence in self._sequences():
                self._leave(sequence, error)
        # Before any of them leaves, which moves rows.
        drawn = [(owner, int(self._batch.next[owner.rows[0]])) for owner in self._sequences()]
        for sequence, token in drawn:
            self._take(sequence, token)

    def _sequences(self) -> list[SequenceRequest]:
        """Each sequence once."""
        return [owner for row, owner in enumerate(self._owners) if owner.rows[0] == row]

    def _take(self, sequence: SequenceRequest, token: int) -> None:
        """Give a sequence the token that was sampled for it."""
        self._batch.newest[sequence.rows] = token
        try:
            sequence.add(token)
        except Exception as error:
            self._leave(sequence, error)

    def _leave(self, sequence: SequenceRequest, error: Exception | None = None) -> None:
        """End a sequence; the last rows take its rows."""
        rows = len(sequence.rows)
        for row in sorted(sequence.rows, reverse=True):
            last = self._owners.pop()
            if row < len(self._owners):
                source = len(self._owners)
                self._owners[row] = last
                self._batch.move(source, row)
                last.rows[last.rows.index(source)] = row
                self._batch.link(last.rows)
        self._scheduler.release(self._number, rows)
        if error is None:
            try:
                sequence.end()
            except Exception as failure:
                error = failure
        if error is not None:
            _fail(sequence.sender, f"the sequence cannot continue: {error}")


class TritonPythonModel:
    """The only instance of the model.

    It reads these parameters of config.pbtxt: classes, codes, prompt_bytes, no_prompt, at_once
    (threads that advance sequences), threads (of one step) and sequences (of one step, at most).
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
        self.codes = int(parameters["codes"])
        folder = Path(args["model_repository"]) / args["model_version"]
        session = GeneratorSession(str(folder / "model.onnx"), int(parameters["threads"]))
        self.channels = session.channels
        self.condition: Condition = (
            TextCondition(
                folder / "tokenizer.json",
                parameters["no_prompt"],
                session.positions - session.channels,
            )
            if int(parameters["prompt_bytes"])
            else ClassCondition(len(json.loads(parameters["classes"])))
        )
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
                        request, sender, self.condition, self.channels, self.codes
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
