"""CAR model and its checkpoints: a language model that continues a text with image codewords.

Source: arXiv 2605.26089. A codeword, a channel map of 16 numbers, is embedded by a two-layer
projector instead of the language model's embedding, and a separate head predicts the next codeword.
The text uses the language model's own tokenizer and embedding.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from generator.output_head import Sampling, by_position, choose, guided, gumbel
from generator.token_model import TokenModel

LANGUAGE, REST = "language", "car.safetensors"  # folder and file in a checkpoint's folder
NO_CLASS_TEXT = "a photo"
# Texts of a class that training draws from. The first one is evaluated, see `text_of`.
TEMPLATES = (
    "a photo of {}",
    "a photo of a {}",
    "a picture of {}",
    "a picture of a {}",
    "an image of {}",
    "{}",
)


def small_language(
    width: int = 256, layers: int = 4, heads: int = 4, ffn_dim: int = 704
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Qwen3 with random weights and a byte tokenizer; one key/value head per two query heads."""
    text = byte_tokenizer()
    config = Qwen3Config(
        vocab_size=len(text),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=width // heads,
        intermediate_size=ffn_dim,
        max_position_embeddings=1024,
        pad_token_id=text.pad_token_id,
    )
    return Qwen3Model(config), text


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 257 tokens: the bytes of UTF-8, and padding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def local_language(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a decoder-only language model in fp32, and its tokenizer, from a `transformers` folder.

    Downloads nothing. Raises ValueError with the reason when the folder holds none.
    """
    try:
        language = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        text = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder} holds no language model that transformers can read: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if text.pad_token is None:
        text.pad_token = text.eos_token
    text.padding_side = "right"
    return language, text


class Car(TokenModel):
    """Predicts the next codeword of an image from a text and the previous codewords.

    codewords: float [N, 16], of the CVQ tokenizer with the fingerprint `tokenizer`; not trained.
    channels: C, codewords per image. classes: names, see `text_of`.
    """

    codewords: Tensor
    class_texts: Tensor
    class_masks: Tensor

    def __init__(
        self,
        language: PreTrainedModel,
        text: PreTrainedTokenizerBase,
        codewords: Tensor,
        tokenizer: str,
        channels: int,
        classes: Sequence[str],
    ) -> None:
        super().__init__()
        self.language, self.text = language, text
        self.tokenizer, self.channels, self.classes = tokenizer, channels, list(classes)
        width = language.config.hidden_size
        self.register_buffer("codewords", codewords.clone())
        # [templates, classes + 1, length]; the last class is 'no class'.
        every_text = text(
            [text_of(name, form) for form in TEMPLATES for name in [*self.classes, None]],
            padding=True,
            return_tensors="pt",
        )
        texts, masks = (
            every_text[part].unflatten(0, (len(TEMPLATES), -1))
            for part in ("input_ids", "attention_mask")
        )
        self.register_buffer("class_texts", texts, persistent=False)
        self.register_buffer("class_masks", masks, persistent=False)
        self.projector = nn.Sequential(
            nn.Linear(codewords.shape[1], width), nn.GELU(), nn.Linear(width, width)
        )
        self.begin = nn.Parameter(0.02 * torch.randn(width))  # embedding of the image's start
        self.head = nn.Linear(width, len(codewords), bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """See TokenModel. A class is given by its first text; in training by one drawn for each."""
        form = torch.zeros_like(classes)
        if self.training:
            form = torch.randint_like(classes, len(TEMPLATES))
        texts = self._embedded(self.class_texts[form, classes])
        logits = self._logits(tokens, texts, self.class_masks[form, classes])
        return F.cross_entropy(logits.float().transpose(1, 2), tokens.long(), reduction="none")

    def logits(self, tokens: Tensor, texts: Sequence[str]) -> Tensor:
        """Logits float [B, n, codewords] of each token, given its text and the tokens before it.

        tokens: int [B, n].
        """
        return self._logits(tokens, *self._texts(texts))

    def _logits(self, tokens: Tensor, texts: Tensor, mask: Tensor) -> Tensor:
        """texts, mask: see `_texts`."""
        x = torch.cat(
            [texts, self.begin.expand(len(tokens), 1, -1), self.embed(tokens[:, :-1])], dim=1
        )
        mask = F.pad(mask, (0, tokens.shape[1]), value=1)
        hidden = self.language(
            inputs_embeds=x, attention_mask=mask, position_ids=_positions(mask), use_cache=False
        ).last_hidden_state
        logits: Tensor = self.head(hidden[:, texts.shape[1] :])
        return logits

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids int [B, n] to inputs of the language model float [B, n, d]."""
        return self.projector(F.embedding(tokens, self.codewords))

    @torch.inference_mode()
    def generate(
        self,
        texts: Sequence[str],
        k: int,
        seed: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float = 1.0,
        final_temperature: float | None = None,
    ) -> Tensor:
        """Sample the first k tokens per text: int32 [B, k]. Deterministic in its arguments.

        1 <= k <= channels. temperature: 0 = greedy. top_k: 0 = all. top_p, guidance,
        final_temperature: see generator.sample.sample; guidance leads away from the text of no
        class. Raises ValueError when k is out of range.
        """
        if not 1 <= k <= self.channels:
            raise ValueError(f"k must be 1 to {self.channels}, not {k}")
        pairs = guidance != 1
        rows = [*texts, *([NO_CLASS_TEXT] * len(texts) if pairs else [])]
        batch = len(rows)
        embedded, mask = self._texts(rows)
        x = torch.cat([embedded, self.begin.expand(batch, 1, -1)], dim=1)
        mask = F.pad(mask, (0, 1), value=1)
        positions, cache = _positions(mask), DynamicCache(config=self.language.config)
        sampling = Sampling.of(batch, temperature, top_k, top_p, guidance, pairs=pairs)
        temperatures = by_position(temperature, final_temperature, self.channels)
        source = torch.Generator().manual_seed(seed)
        tokens: list[Tensor] = []
        for index in range(k):
            sampling = sampling._replace(temperature=temperatures[index].expand(batch))
            hidden = self.language(
                inputs_embeds=x, attention_mask=mask, position_ids=positions, cache=cache
            ).last_hidden_state
            noise = gumbel(source, len(texts), len(self.codewords)).repeat(batch // len(texts), 1)
            tokens.append(choose(guided(self.head(hidden[:, -1]), sampling), sampling, noise))
            x = self.embed(tokens[-1][:, None])
            mask, positions = F.pad(mask, (0, 1), value=1), positions[:, -1:] + 1
        return torch.stack(tokens, dim=1)[: len(texts)]

    def _texts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embedded texts float [B, P, d] and mask int64 [B, P], 0 at the padding, which is last."""
        batch = self.text(list(texts), padding=True, return_tensors="pt")
        return self._embedded(batch["input_ids"]), batch["attention_mask"]

    def _embedded(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.language.get_input_embeddings()(ids)
        return embedded

    def inner_weights(self) -> list[Tensor]:
        return [
            module.weight
            for layer in self.language.layers
            for module in layer.modules()
            if isinstance(module, nn.Linear)
        ]


def text_of(name: str | None, template: str = TEMPLATES[0]) -> str:
    """Prompt of a class name; of no class for None."""
    return NO_CLASS_TEXT if name is None else template.format(name.replace("_", " ").lower())


def _positions(mask: Tensor) -> Tensor:
    """Positions in each sequence, without counting padding: int64 [B, n]."""
    return (mask.cumsum(1) - 1).clamp_min(0)


def save(model: Car, folder: Path, facts: dict[str, str] | None = None) -> None:
    """Write a checkpoint folder in fp16, with the language model in the format of `transformers`.

    facts: further metadata, such as the training record.
    """
    temporary = folder.with_name(folder.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    state = {
        name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()
    }
    prefix = f"{LANGUAGE}."
    model.language.save_pretrained(
        temporary / LANGUAGE,
        state_dict={n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)},
    )
    model.text.save_pretrained(temporary / LANGUAGE)
    metadata = {
        "tokenizer": model.tokenizer,
        "channels": str(model.channels),
        "classes": json.dumps(model.classes),
        **(facts or {}),
    }
    save_file(
        {n: v for n, v in state.items() if not n.startswith(prefix)}, temporary / REST, metadata
    )
    for file in temporary.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors lets only its writer read them
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def load(folder: Path) -> Car:
    """Load a folder of `save` in fp32, in eval mode. Raises ValueError for any other folder."""
    language, text = local_language(folder / LANGUAGE)
    try:
        rest = load_file(folder / REST)
        metadata = facts(folder)
        tokenizer, channels, classes = (
            metadata["tokenizer"],
            int(metadata["channels"]),
            json.loads(metadata["classes"]),
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{folder / REST} was not written by generator.car: {error}") from error
    model = Car(language, text, rest["codewords"].float(), tokenizer, channels, classes)
    # strict=False: the language model's weights are already loaded
    model.load_state_dict({name: value.float() for name, value in rest.items()}, strict=False)
    return model.eval()


def facts(folder: Path) -> dict[str, str]:
    """Metadata of a checkpoint folder."""
    with safe_open(folder / REST, framework="pt") as file:
        return dict(file.metadata())
