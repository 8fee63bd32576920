"""CAR's checkpoint to an ONNX step graph, as export.graphs.generator_graph does for a GPT.

The language model's layers are those of `transformers`; only attention is replaced, by an operator
with a cache. Text is at the positions before the image: id -2 - t for token t of the language
model's own tokenizer, then -1 for the image's start.
"""

import json

import onnx
import torch
from torch import Tensor
from transformers import Qwen3Model

from export.graphs import generator_parity
from export.graphs.generator_graph import GeneratorMetadata, GroupQueryAttention, Step, trace
from export.graphs.generator_parity import Parity
from generator.car.model import NO_CLASS_TEXT, Car
from generator.gpt import Cache
from generator.output_head import Sampling, choose, guided
from tokenizer.checkpoint import fingerprint_of_weights

MAX_PROMPT_BYTES = 1024


class CarStep(Step):
    """A step of CAR. A text token t is -2 - t, and the image's start -1."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, car: Car, positions: int) -> None:
        """positions: of the cache. Raises ValueError for another language model than a Qwen3."""
        super().__init__()
        language = car.language
        if not isinstance(language, Qwen3Model) or set(language.config.layer_types) != {
            "full_attention"
        }:
            raise ValueError(
                f"its language model is a {type(language).__name__}; only a Qwen3Model whose "
                "layers all have full attention can be exported"
            )
        self.car, config = car, language.config
        self.head, self.heads = config.head_dim, config.num_attention_heads
        self.key_heads, self.layers = config.num_key_value_heads, config.num_hidden_layers
        order = torch.arange(positions)[None]
        cosines, sines = language.rotary_emb(torch.zeros(1), order)  # both halves are the same
        self.register_buffer("cosines", cosines[0, :, : self.head // 2].clone(), persistent=False)
        self.register_buffer("sines", sines[0, :, : self.head // 2].clone(), persistent=False)

    def empty_cache(self, batch: int, room: int) -> Cache:
        """An empty cache with room for a number of positions."""
        size = (batch, self.key_heads, room, self.head)
        return [torch.zeros(size) for _ in range(2 * self.layers)]

    def step(
        self, tokens: Tensor, before: Tensor, sampling: Sampling, noise: Tensor, cache: Cache
    ) -> tuple[Tensor, Tensor, Cache]:
        car, new = self.car, tokens.shape[1]
        text = car.language.get_input_embeddings()((-2 - tokens).clamp_min(0))
        x = torch.where(tokens[..., None] < 0, car.begin, car.embed(tokens.clamp_min(0)))
        x = torch.where(tokens[..., None] < -1, text, x)
        attention = GroupQueryAttention(
            new,
            before,
            (self.cosines, self.sines),
            self.heads,
            self.key_heads,
            scale=self.head**-0.5,
        )
        new_cache: Cache = []
        layers = zip(car.language.layers, cache[::2], cache[1::2], strict=True)
        for layer, keys, values in layers:
            normed, of = layer.input_layernorm(x), layer.self_attn
            attended, layer_cache = attention(
                of.q_norm(of.q_proj(normed).unflatten(-1, (-1, self.head))).flatten(2),
                of.k_norm(of.k_proj(normed).unflatten(-1, (-1, self.head))).flatten(2),
                of.v_proj(normed),
                (keys, values),
            )
            x = x + of.o_proj(attended)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            new_cache += layer_cache
        logits = guided(car.head(car.language.norm(x[:, -1])), sampling)
        return choose(logits, sampling, noise[:, 0]), logits[:, None], new_cache


def step_graph(car: Car, name: str) -> onnx.ModelProto:
    """The graph of `CarStep` with metadata. name: the generator's name in serving.

    A text may have MAX_PROMPT_BYTES, or what the language model's positions leave beside the
    channels: no tokenizer of bytes makes more tokens than bytes. Raises ValueError for a language
    model that cannot be exported, or one with fewer positions than channels.
    """
    prompt = min(MAX_PROMPT_BYTES, car.language.config.max_position_embeddings - car.channels)
    if prompt < 1:
        raise ValueError(
            f"its language model has {car.language.config.max_position_embeddings} positions, "
            f"which leaves none for a text beside {car.channels} channels"
        )
    codes = len(car.codewords)
    positions = prompt + car.channels  # the last token is no input, and the image's start is one
    metadata = GeneratorMetadata(
        generator=name,
        fingerprint=car.tokenizer,
        generator_fingerprint=fingerprint_of_weights(car.state_dict()),
        channels=car.channels,
        positions=positions,
        codes=codes,
        bits_per_token=(codes - 1).bit_length(),
        classes=json.dumps(car.classes),
        family="car",
        prompt_bytes=prompt,
        no_prompt=NO_CLASS_TEXT,
    )
    step = CarStep(car, positions)
    return trace(step, metadata, (1, codes), step.empty_cache)


def parity(car: Car, graph: bytes, texts: list[str], length: int | None = None) -> Parity:
    """Compare CAR with its step graph on a greedy sequence per text. length: all by default."""

    def predict(row: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits = car.logits(tokens, [texts[row]])[0]
        return logits.argmax(-1), logits[:, None]

    prompts = [[*(-2 - token for token in car.text(text)["input_ids"]), -1] for text in texts]
    return generator_parity.measure(graph, prompts, length or car.channels, predict)
