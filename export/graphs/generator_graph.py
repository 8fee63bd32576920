"""A generator becomes one ONNX graph: the newest positions, and what is remembered of those before, to the next token.

The same graph begins a sequence (all given positions, an empty cache) and goes on with it (one position). Sampling lies inside, its noise
comes from outside: whatever runs the graph draws the same tokens from the same seed.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import torch
from onnx import helper
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from export.graphs import graph
from generator import checkpoint
from generator.checkpoint import Generator
from generator.gpt import Cache, Gpt

INPUTS = ["tokens", "class", "before", "temperature", "top_k", "noise"]
OUTPUTS = ["next", "logits"]


@dataclass(frozen=True)
class Facts:
    """What the graph says of itself in its metadata, and its Triton model in the parameters of config.pbtxt.

    fingerprint: of the tokenizer whose tokens it makes. generator_fingerprint: of its own weights. channels: tokens of a sequence at most.
    codes, bits_per_token: of those tokens. classes: JSON list of names, in the order of class ids.
    """

    generator: str
    fingerprint: str
    generator_fingerprint: str
    channels: int
    codes: int
    bits_per_token: int
    classes: str
    role: str = "generate"
    family: str = "gpt"

    def as_strings(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


_FACTS = TypeAdapter(Facts)


class Kernel:
    """Attention as one operator of ONNX Runtime (com.microsoft.GroupQueryAttention), which turns queries and keys itself, computes the
    positions that count alone, and writes new keys and values into the cache: where input and output are one tensor, nothing is copied.

    PyTorch cannot run it: this is for export alone. Of one sequence; its cache has room for the new positions.
    """

    def __init__(self, model: Gpt, new: int, before: Tensor) -> None:
        half = model.cosines.shape[1] // 2
        total = before + new
        self._positions = [total - 1, total[0], model.cosines[:, :half], model.sines[:, half:]]
        # The tables have the scale of scores in them.
        self._attributes: dict[str, Any] = {
            "num_heads": model.shape.heads,
            "kv_num_heads": model.shape.heads,
            "do_rotary": 1,
            "scale": 1.0,
        }

    def __call__(self, qkv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Cache]:
        """As generator.gpt.Attend; what is returned is the whole cache."""
        batch, new, width = qkv.shape
        attended, *cache = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            [qkv, None, None, keys, values, *self._positions],
            self._attributes,
            dtypes=[qkv.dtype] * 3,
            shapes=[(batch, new, width // 3), keys.shape, values.shape],
            version=1,
        )
        return attended, cache


class Step(nn.Module):
    """One sequence: tokens int32 [1, n], -1 at the class's position; class int32 [1], -1 = none; before int32 [1], how many positions of
    the cache count; temperature float [1]; top_k int32 [1]; noise float [1, draws, values], as generator.output_head has it; keys_0,
    values_0, keys_1 and so on, the cache, float [1, heads, t, head] each, where t has room for the n newest positions
    -> next int32 [1], logits float [1, draws, values], new_keys_0 and so on: the cache with the n positions.

    Whoever runs the graph binds an input and an output of the cache to one tensor: else all of it is copied for each token.
    """

    def __init__(self, model: Gpt) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: Tensor,
        classes: Tensor,
        before: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        noise: Tensor,
        cache: Cache,
    ) -> tuple[Tensor, Tensor, Cache]:
        new = tokens.shape[1]
        x = self.model.embedded(tokens, classes, torch.arange(new) + before)
        hidden, cache = self.model.through_layers(x, cache, Kernel(self.model, new, before))
        token, logits = self.model.prediction.sample(hidden[:, -1], temperature, top_k, noise)
        return token, logits, cache


def step_graph(generator: Generator, name: str) -> onnx.ModelProto:
    """The graph of `Step` with its facts; `name` is the generator's."""
    model = generator.model
    shape, prediction = model.shape, model.prediction
    room, new = 7, 5  # neither 0 nor 1, which the exporter would take for constants
    examples = (
        torch.zeros(1, new, dtype=torch.int32),
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(1),
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(1, prediction.draws, prediction.values),
        model.empty_cache(1, room),
    )
    newest, past = torch.export.Dim("new"), torch.export.Dim("past", min=0)
    free: graph.FreeAxes = ({1: newest}, {}, {}, {}, {}, {}, [{2: past}] * (2 * shape.layers))
    cache = [f"{what}_{layer}" for layer in range(shape.layers) for what in ("keys", "values")]
    made = graph.traced(
        Step(model), examples, [*INPUTS, *cache], [*OUTPUTS, *(f"new_{one}" for one in cache)], free
    )
    facts = Facts(
        generator=name,
        fingerprint=generator.tokenizer,
        generator_fingerprint=checkpoint.fingerprint(model),
        channels=shape.channels,
        codes=shape.codes,
        bits_per_token=(shape.codes - 1).bit_length(),
        classes=json.dumps(generator.classes),
    )
    helper.set_model_props(made, facts.as_strings())
    return made


def facts(made: onnx.ModelProto) -> Facts:
    """The facts a graph carries. Raises ValueError for a graph that was not made here."""
    try:
        return _FACTS.validate_python({entry.key: entry.value for entry in made.metadata_props})
    except ValidationError as error:
        raise ValueError(
            "the graph's metadata does not name its generator: not written by export.graphs.generator_graph"
        ) from error
