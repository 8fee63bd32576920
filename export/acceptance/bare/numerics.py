"""Tokens and pixels of each precision against fp32 on the CPU, alone and in a batch."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from export.acceptance.bare.precision import ALL, FP32, Precision, computing, prepared
from export.acceptance.bare.scale import Scale
from export.acceptance.bare.sections import Sections
from export.graphs.graph import Decode, Encode
from tokenizer.models.base import Tokenizer

BATCH = 32
MAX_SECONDS = 40.0  # for one precision
MIN_REFERENCE = 2  # photos


@dataclass(frozen=True)
class Reference:
    """Tokens int32 [N, C] and pixels uint8 [N, S, S, 3] of photos in fp32.

    where: the device, for the report.
    """

    tokens: Tensor
    pixels: Tensor
    where: str


def compare(
    sections: Sections,
    name: str,
    model: Tokenizer,
    photos: Tensor,
    device: torch.device,
    scale: Scale,
) -> None:
    """Report bits and pixels of every precision against fp32. photos: uint8 [N, S, S, 3].

    The CPU computes the reference of as many photos as fit into `scale.reference_seconds`. If these
    are not all, fp32 on the device is compared with the CPU on them, and the other precisions with
    fp32 on the device on all photos.
    """
    report = sections.report
    reference = on_cpu(model, photos, scale.reference_seconds)
    count = len(reference.tokens)
    report.add(
        f"### {name}",
        "",
        f"| precision | photos | against fp32 on | bits flipped | largest pixel difference, mean "
        f"| alone and in a batch of {min(BATCH, len(photos))} |",
        "|---|---|---|---|---|---|",
    )
    for precision in ALL:
        whole = count if precision is FP32 else len(reference.tokens)

        def compare_precision(precision: Precision = precision, whole: int = whole) -> None:
            nonlocal reference
            results = _on_device(model, photos[:whole], reference.tokens, precision, device)
            _add(sections, name, precision, results, reference, model)
            if precision is FP32 and count < len(photos):
                ready = prepared(model, FP32, device, channels_last=True)
                tokens = _tokens(ready, photos, FP32, device, BATCH)
                pixels = _pixels(ready, tokens, FP32, device, BATCH)
                reference = Reference(tokens, pixels, "the device")

        sections.attempt(f"numerics, {name}, {precision.name}", compare_precision, MAX_SECONDS)


def on_cpu(model: Tokenizer, photos: Tensor, seconds: float) -> Reference:
    """Reference of as many photos uint8 [N, S, S, 3] as the CPU computes in `seconds`."""
    deadline = time.monotonic() + seconds
    tokens, pixels = [], []
    with torch.inference_mode():
        for i in range(len(photos)):
            if i >= MIN_REFERENCE and time.monotonic() > deadline:
                break
            tokens.append(Encode(model)(photos[i : i + 1]))
            pixels.append(Decode(model)(tokens[-1]))
    return Reference(torch.cat(tokens), torch.cat(pixels), "the CPU")


@dataclass(frozen=True)
class _Results:
    """tokens, pixels: computed in batches. alone_*: of the first photos, one by one."""

    tokens: Tensor
    pixels: Tensor
    alone_tokens: Tensor
    alone_pixels: Tensor


def _on_device(
    model: Tokenizer, photos: Tensor, tokens: Tensor, precision: Precision, device: torch.device
) -> _Results:
    ready = prepared(model, precision, device, channels_last=True)
    first = photos[:BATCH]
    return _Results(
        _tokens(ready, photos, precision, device, BATCH),
        _pixels(ready, tokens, precision, device, BATCH),
        _tokens(ready, first, precision, device, 1),
        _pixels(ready, tokens[:BATCH], precision, device, 1),
    )


def _tokens(
    model: Tokenizer, photos: Tensor, precision: Precision, device: torch.device, batch: int
) -> Tensor:
    run = Encode(model)
    with computing(precision, device):
        return torch.cat([run(part.to(device)).cpu() for part in photos.split(batch)])


def _pixels(
    model: Tokenizer, tokens: Tensor, precision: Precision, device: torch.device, batch: int
) -> Tensor:
    run = Decode(model)
    with computing(precision, device):
        return torch.cat([run(part.to(device)).cpu() for part in tokens.split(batch)])


def _add(
    sections: Sections,
    name: str,
    precision: Precision,
    results: _Results,
    reference: Reference,
    model: Tokenizer,
) -> None:
    report = sections.report
    count = len(results.tokens)
    expected = reference.tokens[:count]
    bits = expected.numel() * model.bits_per_token
    flipped = int(np.unpackbits((results.tokens ^ expected).numpy().view(np.uint8)).sum())
    difference = (results.pixels.int() - reference.pixels[:count].int()).abs()
    tokens_differ = int((results.alone_tokens != results.tokens[: len(results.alone_tokens)]).sum())
    pixels_differ = int((results.alone_pixels != results.pixels[: len(results.alone_pixels)]).sum())
    same = tokens_differ == 0 and pixels_differ == 0
    batch_effect = (
        "the same" if same else f"{tokens_differ:,} tokens, {pixels_differ:,} values differ"
    )
    report.add(
        f"| {precision.name} | {count} | {reference.where} "
        f"| {flipped:,} of {bits:,} ({flipped / bits:.4%}) "
        f"| {int(difference.max())}, {float(difference.float().mean()):.4f} | {batch_effect} |"
    )
    key = f"{name}_{precision.name}".replace(" ", "_")
    report.figures |= {
        f"{key}_flipped_share": flipped / bits,
        f"{key}_pixel_difference_max": float(difference.max()),
        f"{key}_pixel_difference_mean": float(difference.float().mean()),
        f"{key}_batch_tokens_differ": float(tokens_differ),
        f"{key}_batch_pixels_differ": float(pixels_differ),
    }
