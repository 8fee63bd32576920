"""Precisions on a GPU (fp32, TF32, bf16, fp16), and models prepared to compute in them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenizer.models.base import Tokenizer
from tokenizer.models.blocks import Norm


@dataclass(frozen=True)
class Precision:
    """Number formats of a model.

    dtype: of convolutions and matrix products. tf32: whether those in fp32 may round to TF32.
    throughout: norms and activations are `dtype` too; otherwise they stay fp32, as in exported
    graphs (docs/decisions/0010).
    """

    name: str
    dtype: torch.dtype = torch.float32
    tf32: bool = False
    throughout: bool = False


FP32 = Precision("fp32")
TF32 = Precision("tf32", tf32=True)
BF16 = Precision("bf16", torch.bfloat16)
FP16 = Precision("fp16", torch.float16)
BF16_THROUGHOUT = Precision("bf16 throughout", torch.bfloat16, throughout=True)
FP16_THROUGHOUT = Precision("fp16 throughout", torch.float16, throughout=True)
ALL = (FP32, TF32, BF16, FP16, BF16_THROUGHOUT, FP16_THROUGHOUT)


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute in `precision`, without gradients, inside the block."""
    torch.backends.cuda.matmul.allow_tf32 = precision.tf32
    torch.backends.cudnn.allow_tf32 = precision.tf32
    mixed = precision.dtype != torch.float32 and not precision.throughout
    with (
        torch.inference_mode(),
        torch.autocast(device.type, precision.dtype if mixed else torch.bfloat16, enabled=mixed),
    ):
        yield


def prepared(
    model: Tokenizer, precision: Precision, device: torch.device, *, channels_last: bool
) -> Tokenizer:
    """A copy of a model on `device` that computes in `precision` inside a `computing` block.

    Pixels, latents and codes outside of encoder and decoder stay fp32.
    """
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    if precision.throughout:
        for part in (ready.encoder, *ready.decoders):
            _lower(part, precision.dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return ready.to(device, memory_format=layout)  # type: ignore[call-overload]


def _lower(part: nn.Module, dtype: torch.dtype) -> None:
    for parent in list(part.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, Norm):  # which always computes in fp32
                plain = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps)
                plain.weight, plain.bias = norm.weight, norm.bias
                setattr(parent, name, plain)
    part.to(dtype)

    def lower(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(tensor.to(dtype) for tensor in inputs)

    def restore(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        return output.float()

    part.register_forward_pre_hook(lower)
    part.register_forward_hook(restore)
