"""Base class of all tokenizer models: an image to ordered tokens, any prefix to an image."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import AliasChoices, Field
from torch import Tensor, nn

# Fingerprints hash the serialised shape, so a renamed field is still written under its first name.
# Shapes that use these types need `serialize_by_alias=True`.
ImageSize = Annotated[
    int,
    Field(
        validation_alias=AliasChoices("image_size", "picture_size"),
        serialization_alias="picture_size",
    ),
]
VocabSize = Annotated[
    int, Field(validation_alias=AliasChoices("vocab_size", "codes"), serialization_alias="codes")
]


class TokenizerShape(Protocol):
    """Architecture of a tokenizer: a pydantic model with at least these attributes."""

    @property
    def kind(self) -> str:
        """Name of the shape class in a checkpoint."""

    @property
    def image_size(self) -> int:
        """S: side of an image in pixels."""

    @property
    def channels(self) -> int:
        """C: tokens per image, the largest budget."""

    @property
    def decoder_stride(self) -> int:
        """Side in pixels of the blocks that the decoder's last layer writes, its grid's stride."""

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...

    def model_dump_json(self) -> str: ...


class ImageLoss(Protocol):
    """Training loss of a reconstruction, and the weights of the quantiser's own loss terms.

    entropy_weight: of per-sample minus batch entropy, in nats. commitment_weight: of the squared
    distance between latents and their codes.
    """

    @property
    def entropy_weight(self) -> float: ...

    @property
    def commitment_weight(self) -> float: ...

    def image_loss(self, pixels: Tensor, reconstruction: Tensor, samples_seen: int) -> Tensor:
        """Scalar. pixels, reconstruction: float [B, 3, S, S] in about [-1, 1]."""


class Tokenizer(nn.Module, ABC):
    """Maps images float [B, 3, S, S] in [-1, 1] to C ordered token ids, and prefixes of them back.

    family: name in graphs and Triton models. title: name in tables for readers. usage_name: what
    `usage` measures, as named in logs.
    """

    family: ClassVar[str]
    title: ClassVar[str]
    usage_name: ClassVar[str]
    shape: TokenizerShape
    encoder: nn.Module
    decoder: nn.Module

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids a token can take, at most 65,536: ids are 0 to vocab_size - 1."""

    @property
    def bits_per_token(self) -> int:
        """Bits that hold any id."""
        return (self.vocab_size - 1).bit_length()

    @property
    def bits_per_flip(self) -> int:
        """Bits of an id that change when one latent crosses a decision boundary.

        All bits, unless each bit has a latent of its own. Parity checks between engines allow it.
        """
        return self.bits_per_token

    @property
    def narrow_budgets(self) -> tuple[int, ...]:
        """Budgets below C, ascending, whose prefixes a smaller decoder of their own decodes."""
        return ()

    @property
    def decoders(self) -> tuple[nn.Module, ...]:
        """`decoder`, and those of `narrow_budgets` in their order."""
        return (self.decoder,)

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels float [B, 3, S, S] in [-1, 1] to token ids int32 [B, C], coarse to fine."""

    @abstractmethod
    def decode_prefix(self, tokens: Tensor) -> Tensor:
        """First token ids int32 [B, k], 1 <= k <= C, to pixels float [B, 3, S, S], about [-1, 1].

        An id of -1 is an absent token. Tokens from k on are absent. The width k chooses among
        decoders (`narrow_budgets`), so pad a prefix only up to the next budget.
        """

    def decode(self, tokens: Tensor) -> Tensor:
        """Token ids int32 [B, C], -1 where absent, to pixels float [B, 3, S, S], about [-1, 1]."""
        return self.decode_prefix(tokens)

    @abstractmethod
    def codes(self, pixels: Tensor) -> Tensor:
        """Pixels as for `encode` to the codes of their tokens, float [B, C, ...].

        The gradient is straight through the quantiser, as in training.
        """

    @abstractmethod
    def decode_codes(self, codes: Tensor) -> Tensor:
        """First codes float [B, k, ...], as `codes` gives them, to pixels float [B, 3, S, S]."""

    @abstractmethod
    def forward(self, pixels: Tensor, budgets: Tensor) -> tuple[Tensor, ...]:
        """Training forward pass.

        pixels: float [B, 3, S, S] in [-1, 1]. budgets: int [B] in [1, C].
        Returns the reconstruction [B, 3, S, S], followed by whatever else `loss` needs.
        """

    @abstractmethod
    def loss(
        self, losses: ImageLoss, pixels: Tensor, outputs: tuple[Tensor, ...], samples_seen: int
    ) -> Tensor:
        """Scalar to minimise. outputs: result of `forward` for `pixels`."""

    @abstractmethod
    def usage(self, tokens: Tensor) -> float:
        """Share of the vocabulary's capacity in use, 0 to 1. tokens: int32 [N, C] of N images."""

    def inner_weights(self) -> list[Tensor]:
        """The weights that Muon may train: inner convolutions, facing neither pixels nor codes."""
        return convolution_weights(self)[1:-1]


def convolution_weights(module: nn.Module) -> list[Tensor]:
    """Weights of all convolutions in `module`, in data order."""
    return [part.weight for part in module.modules() if isinstance(part, nn.Conv2d)]
