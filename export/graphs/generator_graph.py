"""A generator checkpoint to one ONNX step graph: newest positions and KV cache to the next token.

The same graph prefills a prompt (many positions, an empty cache) and decodes (one position).
Sampling is inside and its noise is an input, so every runtime draws the same tokens from a seed.

What an image shall show is at the positions before its tokens, as ids below 0: the class of a GPT,
or the text of CAR (export.graphs.car_graph).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
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

INPUTS = ["tokens", "before", *Sampling._fields, "noise"]
OUTPUTS = ["next", "logits"]
# Of the inputs of a Triton model. The service refuses models of another number.
INTERFACE = 2


@dataclass(frozen=True)
class GeneratorMetadata:
    """Description of a step graph: metadata of the ONNX file and parameters of its config.pbtxt.

    generator: its name in serving.
    fingerprint: of the tokenizer whose tokens it generates.
    generator_fingerprint: of its own weights.
    channels: largest number of tokens in a sequence.
    positions: of its cache: the channels, and what comes before them.
    codes, bits_per_token: vocabulary size and width of those tokens.
    classes: JSON list of names, in the order of class ids.
    prompt_bytes: longest text in UTF-8; 0: it takes a class.
    no_prompt: the text that stands for none.
    """

    generator: str
    fingerprint: str
    generator_fingerprint: str
    channels: int
    positions: int
    codes: int
    bits_per_token: int
    classes: str
    family: str
    prompt_bytes: int = 0
    no_prompt: str = ""
    interface: int = INTERFACE
    role: str = "generate"

    def as_strings(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


_METADATA = TypeAdapter(GeneratorMetadata)


class GroupQueryAttention:
    """Attention as ONNX Runtime's com.microsoft.GroupQueryAttention; export only.

    The operator applies rotary embeddings, skips unused cache positions and writes new keys and
    values into the cache, without a copy where its input and output are the same tensor. PyTorch
    cannot run it. The cache must have room for the new positions.
    """

    def __init__(
        self,
        new: int,
        before: Tensor,
        rotation: tuple[Tensor, Tensor],
        heads: int,
        key_heads: int,
        scale: float,
    ) -> None:
        """new: positions. before: int32 [B], positions of the cache in use.

        rotation: cosines and sines float [t, head / 2] by position. heads, key_heads: of queries,
        and of keys and values. scale: of attention scores.
        """
        total = before + new
        self._positions = [total - 1, total.max(), *rotation]
        self._attributes: dict[str, Any] = {
            "num_heads": heads,
            "kv_num_heads": key_heads,
            "do_rotary": 1,
            "scale": scale,
        }

    def __call__(
        self, queries: Tensor, key: Tensor | None, value: Tensor | None, cache: Sequence[Tensor]
    ) -> tuple[Tensor, Cache]:
        """Attention output float [B, n, heads * head], and the whole cache of this layer.

        queries: float [B, n, heads * head]. key, value: float [B, n, key_heads * head]; None where
        `queries` holds all three, one after the other. cache: keys and values float
        [B, key_heads, t, head].
        """
        batch, new, width = queries.shape
        attended, *updated = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            [queries, key, value, *cache, *self._positions],
            self._attributes,
            dtypes=[queries.dtype] * 3,
            shapes=[(batch, new, width // 3 if key is None else width), *(c.shape for c in cache)],
            version=1,
        )
        return attended, updated


class Step(nn.Module, ABC):
    """One decoding step of B sequences, which may differ in length and in how they are sampled.

    Inputs:
        tokens: int32 [B, n], the ids at the newest positions. n is 1 where B is more than 1.
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

    def forward(
        self,
        tokens: Tensor,
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
        sampling = Sampling(temperature, top_k, top_p, guidance, partner, leader)
        return self.step(tokens, before, sampling, noise, cache)

    @abstractmethod
    def step(
        self, tokens: Tensor, before: Tensor, sampling: Sampling, noise: Tensor, cache: Cache
    ) -> tuple[Tensor, Tensor, Cache]:
        """See the class."""


class GptStep(Step):
    """A step of a GPT.

    The first position of a sequence is its class: -2 - class, or -1 for none.
    """

    def __init__(self, model: Gpt) -> None:
        super().__init__()
        self.model = model

    def step(
        self, tokens: Tensor, before: Tensor, sampling: Sampling, noise: Tensor, cache: Cache
    ) -> tuple[Tensor, Tensor, Cache]:
        new, model = tokens.shape[1], self.model
        classes = (-2 - tokens[:, 0]).clamp_min(-1)  # only read where the first position is one
        x = model.embedded(tokens, classes, torch.arange(new) + before[:, None])
        half, heads = model.cosines.shape[1] // 2, model.shape.heads
        # Scale 1: the rotary tables already hold the scale of attention scores.
        rotation = (model.cosines[:, :half], model.sines[:, half:])
        attention = GroupQueryAttention(new, before, rotation, heads, heads, scale=1.0)

        def attend(qkv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Cache]:
            return attention(qkv, None, None, (keys, values))

        hidden, cache = model.through_layers(x, cache, attend)
        token, logits = model.prediction.sample(hidden[:, -1], sampling, noise)
        return token, logits, cache


def step_graph(generator: Generator, name: str) -> onnx.ModelProto:
    """The graph of `GptStep` with metadata. name: the generator's name in serving."""
    model = generator.model
    shape = model.shape
    metadata = GeneratorMetadata(
        generator=name,
        fingerprint=generator.tokenizer,
        generator_fingerprint=checkpoint.fingerprint(model),
        channels=shape.channels,
        positions=shape.channels,  # the last token is no input, and the class is one
        codes=shape.vocab_size,
        bits_per_token=(shape.vocab_size - 1).bit_length(),
        classes=json.dumps(generator.classes),
        family="gpt",
    )
    prediction = model.prediction
    noise = (prediction.draws, prediction.values)
    return trace(GptStep(model), metadata, noise, model.empty_cache)


def trace(
    step: Step,
    metadata: GeneratorMetadata,
    noise: tuple[int, int],
    empty_cache: Callable[[int, int], Cache],
) -> onnx.ModelProto:
    """The graph of a step, which takes INPUTS and a cache. noise: of a row, see OutputHead.

    empty_cache: makes a cache for a number of rows and positions.
    """
    batch, room, new = 3, 7, 5  # the exporter would treat 0 and 1 as constants
    cache = empty_cache(batch, room)
    examples = (
        torch.zeros(batch, new, dtype=torch.int32),
        torch.zeros(batch, dtype=torch.int32),
        *Sampling.of(batch),
        torch.zeros(batch, *noise),
        cache,
    )
    rows, newest = torch.export.Dim("batch"), torch.export.Dim("new")
    past = torch.export.Dim("past", min=0)
    of_rows = {0: rows}
    dynamic: graph.DynamicAxes = (
        {0: rows, 1: newest},
        *[of_rows] * (len(INPUTS) - 1),
        [{0: rows, 2: past}] * len(cache),
    )
    names = [f"{part}_{layer}" for layer in range(len(cache) // 2) for part in ("keys", "values")]
    exported = graph.trace(
        step,
        examples,
        [*INPUTS, *names],
        [*OUTPUTS, *(f"new_{tensor}" for tensor in names)],
        dynamic,
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
