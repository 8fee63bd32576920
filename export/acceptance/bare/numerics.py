"""Do tokens and pixels agree with fp32 on the CPU, and does an image depend on its batch?"""

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
AT_MOST = 40.0  # seconds for one precision
LEAST_REFERENCE = 2  # photos


@dataclass(frozen=True)
class Reference:
    """What fp32 makes of photos. tokens: int32 [N, C]. pixels: uint8 [N, S, S, 3].

    where: the device, as a report names it.
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
    """Say bits and pixels of every precision against fp32. photos: uint8 [N, S, S, 3].

    The reference is the CPU for as many photos as it manages in `scale.reference` seconds. Where
    these are not all, fp32 on the device is compared with the CPU on them, and all other precisions
    with fp32 on the device on all photos.
    """
    report = sections.report
    reference = on_cpu(model, photos, scale.reference)
    count = len(reference.tokens)
    report.say(
        f"### {name}",
        "",
        f"| precision | photos | against fp32 on | bits flipped | largest pixel difference, mean "
        f"| alone and in a batch of {min(BATCH, len(photos))} |",
        "|---|---|---|---|---|---|",
    )
    for precision in ALL:
        whole = count if precision is FP32 else len(reference.tokens)

        def one(precision: Precision = precision, whole: int = whole) -> None:
            nonlocal reference
            made = _on_device(model, photos[:whole], reference.tokens, precision, device)
            _say(sections, name, precision, made, reference, model)
            if precision is FP32 and count < len(photos):
                ready = prepared(model, FP32, device, channels_last=True)
                tokens = _tokens(ready, photos, FP32, device, BATCH)
                pixels = _pixels(ready, tokens, FP32, device, BATCH)
                reference = Reference(tokens, pixels, "the device")

        sections.attempt(f"numerics, {name}, {precision.name}", one, AT_MOST)


def on_cpu(model: Tokenizer, photos: Tensor, seconds: float) -> Reference:
    """fp32 on the CPU, of as many photos uint8 [N, S, S, 3] as `seconds` are enough for."""
    until = time.monotonic() + seconds
    tokens, pixels = [], []
    with torch.inference_mode():
        for i in range(len(photos)):
            if i >= LEAST_REFERENCE and time.monotonic() > until:
                break
            tokens.append(Encode(model)(photos[i : i + 1]))
            pixels.append(Decode(model)(tokens[-1]))
    return Reference(torch.cat(tokens), torch.cat(pixels), "the CPU")


@dataclass(frozen=True)
class _Made:
    """tokens, pixels: in batches, as Reference. alone_tokens, alone_pixels: of the first of them,
    one by one."""

    tokens: Tensor
    pixels: Tensor
    alone_tokens: Tensor
    alone_pixels: Tensor


def _on_device(
    model: Tokenizer, photos: Tensor, tokens: Tensor, precision: Precision, device: torch.device
) -> _Made:
    ready = prepared(model, precision, device, channels_last=True)
    few = photos[:BATCH]
    return _Made(
        _tokens(ready, photos, precision, device, BATCH),
        _pixels(ready, tokens, precision, device, BATCH),
        _tokens(ready, few, precision, device, 1),
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


def _say(
    sections: Sections,
    name: str,
    precision: Precision,
    made: _Made,
    reference: Reference,
    model: Tokenizer,
) -> None:
    report = sections.report
    count = len(made.tokens)
    due = reference.tokens[:count]
    bits = due.numel() * model.bits_per_token
    flipped = int(np.unpackbits((made.tokens ^ due).numpy().view(np.uint8)).sum())
    difference = (made.pixels.int() - reference.pixels[:count].int()).abs()
    tokens_differ = int((made.alone_tokens != made.tokens[: len(made.alone_tokens)]).sum())
    pixels_differ = int((made.alone_pixels != made.pixels[: len(made.alone_pixels)]).sum())
    same = tokens_differ == 0 and pixels_differ == 0
    said = "the same" if same else f"{tokens_differ:,} tokens, {pixels_differ:,} values differ"
    report.say(
        f"| {precision.name} | {count} | {reference.where} "
        f"| {flipped:,} of {bits:,} ({flipped / bits:.4%}) "
        f"| {int(difference.max())}, {float(difference.float().mean()):.4f} | {said} |"
    )
    key = f"{name}_{precision.name}".replace(" ", "_")
    report.figures |= {
        f"{key}_flipped_share": flipped / bits,
        f"{key}_pixel_difference_max": float(difference.max()),
        f"{key}_pixel_difference_mean": float(difference.float().mean()),
        f"{key}_batch_tokens_differ": float(tokens_differ),
        f"{key}_batch_pixels_differ": float(pixels_differ),
    }
