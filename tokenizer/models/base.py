"""What every family of tokenizers is to training, judging and export: an ordered sequence of token ids, any prefix of which decodes."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import AliasChoices, Field
from torch import Tensor, nn

if TYPE_CHECKING:
    from tokenizer.training.losses import Objective


# Fingerprints hash the serialised shape, so a renamed field keeps the name it was first written
# with. Models of such a shape need `serialize_by_alias=True`.
ImageSize = Annotated[
    int,
    Field(
        validation_alias=AliasChoices("image_size", "picture_size"),
        serialization_alias="picture_size",
    ),
]


class TokenizerShape(Protocol):
    """What a pydantic model must have to be the `shape` of a tokenizer."""

    @property
    def kind(self) -> str:
        """What names it in a checkpoint."""

    @property
    def image_size(self) -> int:
        """S: the side of an image in pixels."""

    @property
    def channels(self) -> int:
        """C: tokens of an image, the largest budget."""

    @property
    def decoder_stride(self) -> int:
        """Side in pixels of the blocks that the decoder's last layer writes: where a grid would show."""

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...

    def model_dump_json(self) -> str: ...


class Tokenizer(nn.Module, ABC):
    """An image float [B, 3, S, S] in [-1, 1] to C token ids, coarse to fine, and back from the first k of them.

    family: as graphs and Triton models name it. title: as tables for people do. use_name: what `use` measures, as logs name it.
    """

    family: ClassVar[str]
    title: ClassVar[str]
    use_name: ClassVar[str]
    shape: TokenizerShape
    encoder: nn.Module
    decoder: nn.Module

    @property
    @abstractmethod
    def codes(self) -> int:
        """How many ids a token may have, at most 65,536: ids are 0 to codes - 1."""

    @property
    def bits_per_token(self) -> int:
        """Bits that hold any id."""
        return (self.codes - 1).bit_length()

    @property
    def bits_of_a_flip(self) -> int:
        """Bits that one number too near to a boundary may change between two engines: all of a token, where an id is one choice of many."""
        return self.bits_per_token

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels float [B, 3, S, S] in [-1, 1] to token ids int32 [B, C]. Keep the first k for a budget of k."""

    @abstractmethod
    def decode_prefix(self, tokens: Tensor) -> Tensor:
        """The first token ids int32 [B, k], 1 <= k <= C, -1 where absent, to pixels float [B, 3, S, S], about [-1, 1].

        The tokens from k on are absent, so that k = C is all there is to decode.
        """

    def decode(self, tokens: Tensor) -> Tensor:
        """Token ids int32 [B, C], -1 where absent, to pixels float [B, 3, S, S], about [-1, 1]."""
        return self.decode_prefix(tokens)

    @abstractmethod
    def forward(self, pixels: Tensor, budgets: Tensor) -> tuple[Tensor, ...]:
        """The training pass.

        pixels: float [B, 3, S, S] in [-1, 1]. budgets: int [B] in [1, C].
        Returns the reconstruction [B, 3, S, S] and after it whatever else `loss` needs.
        """

    @abstractmethod
    def loss(
        self, objective: "Objective", pixels: Tensor, passed: tuple[Tensor, ...], views: int
    ) -> Tensor:
        """Scalar to minimise. passed: what `forward` returned for `pixels`; views: photos seen before."""

    @abstractmethod
    def use(self, tokens: Tensor) -> float:
        """How much of what ids could say they do say, 0 to 1. tokens: int32 [N, C] of N images."""

    def inner_weights(self) -> list[Tensor]:
        """The matrices of the model, or what flattens to one, that face neither pixels nor codes: what Muon may take."""
        return [module.weight for module in self.modules() if isinstance(module, nn.Conv2d)][1:-1]
