"""A generator becomes one ONNX graph: the newest positions, and what is remembered of those before, to the next token.

The same graph begins a sequence (all given positions, an empty cache) and goes on with it (one position). Sampling lies inside, its noise
comes from outside: whatever runs the graph draws the same tokens from the same seed.
"""

import json
from dataclasses import asdict, dataclass

import onnx
import torch
from onnx import helper
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from export import graph
from generator import checkpoint
from generator.checkpoint import Generator
from generator.gpt import Gpt

INPUTS = ["tokens", "class", "cache", "temperature", "top_k", "noise"]
OUTPUTS = ["next", "new_cache", "logits"]


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


class Step(nn.Module):
    """tokens int32 [B, n], -1 at the class's position; class int32 [B], -1 = none; cache float [layers, 2, B, heads, t, head];
    temperature float [B]; top_k int32 [B]; noise float [B, draws, values], as generator.prediction has them
    -> next int32 [B], new_cache of t + n positions, logits float [B, draws, values].
    """

    def __init__(self, model: Gpt) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, classes: Tensor, cache: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        hidden, cache = self.model.hidden(tokens, classes, cache)
        token, logits = self.model.prediction.sample(hidden[:, -1], temperature, top_k, noise)
        return token, cache, logits


def step_graph(generator: Generator, name: str) -> onnx.ModelProto:
    """The graph of `Step` with its facts; `name` is the generator's."""
    model = generator.model
    shape, prediction = model.shape, model.prediction
    batch, before, new = 2, 3, 5  # neither 0 nor 1, which the exporter would take for constants
    examples = (
        torch.zeros(batch, new, dtype=torch.int32),
        torch.zeros(batch, dtype=torch.int32),
        torch.zeros(shape.layers, 2, batch, shape.heads, before, shape.width // shape.heads),
        torch.zeros(batch),
        torch.zeros(batch, dtype=torch.int32),
        torch.zeros(batch, prediction.draws, prediction.values),
    )
    sequences, past, newest = torch.export.Dim("batch"), torch.export.Dim("past", min=0), torch.export.Dim("new")
    free = ({0: sequences, 1: newest}, {0: sequences}, {2: sequences, 4: past}, {0: sequences}, {0: sequences}, {0: sequences})
    made = graph.traced(Step(model), examples, INPUTS, OUTPUTS, free)
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
        raise ValueError("the graph's metadata does not name its generator: not written by export.step") from error
