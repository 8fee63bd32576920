"""A generator checkpoint to one ONNX step graph: newest positions and KV cache to the next token.

The same graph prefills a prompt (many positions, an empty cache) and decodes (one position).
Sampling is inside and its noise is an input, so every runtime draws the same tokens from a seed.
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
from generator.output_head import Sampling

INPUTS = ["tokens", "class", "before", *Sampling._fields, "noise"]
OUTPUTS = ["next", "logits"]


@dataclass(frozen=True)
class GeneratorMetadata:
    """Description of a step graph: metadata of the ONNX file and parameters of its config.pbtxt.

    generator: its name in serving.
    fingerprint: of the tokenizer whose tokens it generates.
    generator_fingerprint: of its own weights.
    channels: largest number of tokens in a sequence.
    codes, bits_per_token: vocabulary size and width of those tokens.
    classes: JSON list of names, in the order of class ids.
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


_METADATA = TypeAdapter(GeneratorMetadata)


class GroupQueryAttention:
    """Attention as ONNX Runtime's com.microsoft.GroupQueryAttention; export only.

    The operator applies rotary embeddings, skips unused cache positions and writes new keys and
    values into the cache, without a copy where its input and output are the same tensor. PyTorch
    cannot run it. The cache must have room for the new positions.
    """

    def __init__(self, model: Gpt, new: int, before: Tensor) -> None:
        half = model.cosines.shape[1] // 2
        total = before + new
        self._positions = [total - 1, total.max(), model.cosines[:, :half], model.sines[:, half:]]
        # scale 1: the rotary tables already hold the scale of attention scores.
        self._attributes: dict[str, Any] = {
            "num_heads": model.shape.heads,
            "kv_num_heads": model.shape.heads,
            "do_rotary": 1,
            "scale": 1.0,
        }

    def __call__(self, qkv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Cache]:
        """As generator.gpt.Attend, but returns the whole cache."""
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


class GeneratorStep(nn.Module):
    """One decoding step of B sequences, which may differ in length and in how they are sampled.

    Inputs:
        tokens: int32 [B, n], the newest positions; -1 at the position of the class. n is 1 where B
            is more than 1.
        class: int32 [B]; -1 = none.
        before: int32 [B], how many positions of the cache are in use.
        temperature, top_k, top_p, guidance, partner, leader: [B], see generator.output_head.
        noise: float [B, draws, values], see generator.output_head.
        keys_0, values_0, keys_1, ...: the cache, float [B, heads, t, head] each, t >= before + n.
    Outputs:
        next: int32 [B], the sampled tokens.
        logits: float [B, draws, values], what they were sampled from.
        new_keys_0, ...: the cache with the n positions.

    Bind each cache input and its output to one tensor: otherwise every step copies the cache.
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
        top_p: Tensor,
        guidance: Tensor,
        partner: Tensor,
        leader: Tensor,
        noise: Tensor,
        cache: Cache,
    ) -> tuple[Tensor, Tensor, Cache]:
        new = tokens.shape[1]
        x = self.model.embedded(tokens, classes, torch.arange(new) + before[:, None])
        hidden, cache = self.model.through_layers(
            x, cache, GroupQueryAttention(self.model, new, before)
        )
        sampling = Sampling(temperature, top_k, top_p, guidance, partner, leader)
        token, logits = self.model.prediction.sample(hidden[:, -1], sampling, noise)
        return token, logits, cache


def step_graph(generator: Generator, name: str) -> onnx.ModelProto:
    """The graph of `GeneratorStep` with metadata. name: the generator's name in serving."""
    model = generator.model
    shape, prediction = model.shape, model.prediction
    batch, room, new = 3, 7, 5  # the exporter would treat 0 and 1 as constants
    examples = (
        torch.zeros(batch, new, dtype=torch.int32),
        torch.zeros(batch, dtype=torch.int32),
        torch.zeros(batch, dtype=torch.int32),
        *Sampling.of(batch),
        torch.zeros(batch, prediction.draws, prediction.values),
        model.empty_cache(batch, room),
    )
    rows, newest = torch.export.Dim("batch"), torch.export.Dim("new")
    past = torch.export.Dim("past", min=0)
    of_rows = {0: rows}
    dynamic: graph.DynamicAxes = (
        {0: rows, 1: newest},
        *[of_rows] * (len(INPUTS) - 1),
        [{0: rows, 2: past}] * (2 * shape.layers),
    )
    cache = [f"{part}_{layer}" for layer in range(shape.layers) for part in ("keys", "values")]
    exported = graph.trace(
        GeneratorStep(model),
        examples,
        [*INPUTS, *cache],
        [*OUTPUTS, *(f"new_{tensor}" for tensor in cache)],
        dynamic,
    )
    metadata = GeneratorMetadata(
        generator=name,
        fingerprint=generator.tokenizer,
        generator_fingerprint=checkpoint.fingerprint(model),
        channels=shape.channels,
        codes=shape.vocab_size,
        bits_per_token=(shape.vocab_size - 1).bit_length(),
        classes=json.dumps(generator.classes),
    )
    helper.set_model_props(exported, metadata.as_strings())
    return exported


def read_metadata(step: onnx.ModelProto) -> GeneratorMetadata:
    """Metadata of a step graph. Raises ValueError for a graph that this module did not export."""
    try:
        return _METADATA.validate_python({entry.key: entry.value for entry in step.metadata_props})
    except ValidationError as error:
        raise ValueError(
            "the graph's metadata does not name its generator: "
            "not written by export.graphs.generator_graph"
        ) from error
