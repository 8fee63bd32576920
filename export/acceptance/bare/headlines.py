"""The papers' headline figures on this device: ChannelTok against FlexTok, GPT-L by length."""

from collections.abc import Callable

import torch
from torch import Tensor

from export.acceptance.bare.precision import (
    BF16,
    FP16,
    FP16_THROUGHOUT,
    FP32,
    Precision,
    computing,
    prepared,
)
from export.acceptance.bare.scale import Scale
from export.acceptance.bare.sections import Sections
from export.acceptance.bare.timing import median_seconds
from export.graphs.graph import Decode
from export.graphs.random_model import random_of
from generator.gpt import Gpt
from generator.output_head import Sampling, gumbel
from tokenizer.models.base import Tokenizer

MAX_SECONDS = 30.0  # for one cell of a table
IMAGES = "images per second by batch"
TEMPERATURE, TOP_K = 0.85, 200  # the paper's


def decoders(sections: Sections, channeltok: Tokenizer, device: torch.device, scale: Scale) -> None:
    """Report images/s of both decoders in fp16 by batch, and how much faster ChannelTok is.

    FlexTok's VAE decoder is left out, in FlexTok's favour. With guidance its network runs twice per
    step: with the tokens and without any.
    """
    report = sections.report
    flextok = random_of(scale.flextok)
    guided = random_of(scale.flextok.model_copy(update={"guidance": 2.0}))
    registers = scale.flextok.channels
    rows: dict[str, tuple[Tokenizer, Precision, int]] = {
        "ChannelTok": (channeltok, FP16, channeltok.shape.channels),
        "FlexTok": (flextok, FP16, registers),
        "FlexTok with guidance": (guided, FP16, registers),
        "ChannelTok, norms in fp16 too": (
            channeltok,
            FP16_THROUGHOUT,
            channeltok.shape.channels,
        ),
    }
    report.add(
        f"Decoders, PyTorch eager, fp16 (norms in fp32), {scale.flextok.steps} Euler steps of "
        "FlexTok, without the decoder of its VAE: " + IMAGES,
        "",
        "| | " + " | ".join(map(str, scale.some_batches)) + " |",
        "|---" * (len(scale.some_batches) + 1) + "|",
    )
    best: dict[str, float] = {}
    for name, (model, precision, channels) in rows.items():
        cells: dict[int, float] = {}
        run = Decode(prepared(model, precision, device, channels_last=model is channeltok))
        for batch in scale.some_batches:
            tokens = torch.randint(60_000, (batch, channels), dtype=torch.int32, device=device)

            def cell(
                run: Decode = run,
                precision: Precision = precision,
                tokens: Tensor = tokens,
                cells: dict[int, float] = cells,
                batch: int = batch,
            ) -> None:
                with computing(precision, device):
                    cells[batch] = batch / median_seconds(lambda: run(tokens), device, scale)

            sections.attempt(f"decoders, {name}, batch {batch}", cell, MAX_SECONDS)
        best[name] = max(cells.values(), default=0.0)
        for batch, rate in cells.items():
            report.figures[_key(f"decoders_{name}_batch_{batch}_images_per_second")] = rate
        texts = (f"{cells[b]:,.1f}" if b in cells else "not run" for b in scale.some_batches)
        report.add(f"| {name} | " + " | ".join(texts) + " |")
        report.write(sections.folder)
    report.add("")
    for name in ("FlexTok", "FlexTok with guidance"):
        if best["ChannelTok"] and best[name]:
            times = best["ChannelTok"] / best[name]
            report.figures[_key(f"channeltok_over_{name}")] = times
            report.add(
                f"- ChannelTok over {name}, each at its best batch: **{times:.1f}** "
                "(the paper, on an A5000 at a batch of 128: 8.6)"
            )


def generation(sections: Sections, device: torch.device, scale: Scale) -> None:
    """Report seconds of GPT-L for one image's tokens, by length, with and without a cache."""
    report = sections.report
    model = scale.gpt.build().eval().requires_grad_(False)
    ways: dict[str, Callable[[Gpt, int, Tensor], Tensor]] = {
        "without a cache": without_cache,
        "with a cache": with_cache,
    }
    report.add(
        "",
        f"GPT, {sum(p.numel() for p in model.parameters()):,} parameters, one image, PyTorch "
        "eager: seconds by tokens",
        "",
        "| | " + " | ".join(map(str, scale.lengths)) + " | last / first |",
        "|---" * (len(scale.lengths) + 2) + "|",
    )
    for precision in (BF16, FP32):
        ready = model.to(device, precision.dtype)
        for way, generate in ways.items():
            seconds_by_length: dict[int, float] = {}
            for length in scale.lengths:
                noise = gumbel(
                    torch.Generator().manual_seed(0),
                    length,
                    1,
                    ready.prediction.draws,
                    ready.prediction.values,
                ).to(device)

                def cell(
                    generate: Callable[[Gpt, int, Tensor], Tensor] = generate,
                    length: int = length,
                    noise: Tensor = noise,
                    seconds_by_length: dict[int, float] = seconds_by_length,
                    ready: Gpt = ready,
                ) -> None:
                    with torch.inference_mode():
                        seconds_by_length[length] = median_seconds(
                            lambda: generate(ready, length, noise), device, scale
                        )

                sections.attempt(
                    f"GPT, {precision.name}, {way}, {length} tokens", cell, MAX_SECONDS
                )
            for length, seconds in seconds_by_length.items():
                report.figures[_key(f"gpt_{precision.name}_{way}_{length}_seconds")] = seconds
            first, last = (seconds_by_length.get(scale.lengths[i]) for i in (0, -1))
            ratio = f"{last / first:.1f}" if first and last else "not run"
            texts = (
                f"{seconds_by_length[n]:.3f}" if n in seconds_by_length else "not run"
                for n in scale.lengths
            )
            report.add(f"| {precision.name}, {way} | " + " | ".join(texts) + f" | {ratio} |")
            report.write(sections.folder)
    report.add("", "The paper, on an H100 without a cache: 32 tokens 0.48 s, 256 tokens 3.8 s.")


def without_cache(model: Gpt, length: int, noise: Tensor) -> Tensor:
    """Sample a sequence; every step computes all positions. Returns token ids int32 [1, length].

    noise: Gumbel, float [length, 1, draws, values].
    """
    device = noise.device
    tokens, classes, sampling = _start(device)
    for index in range(length):
        hidden, _ = model.hidden(tokens, classes, model.empty_cache(1), 0)
        token, _ = model.prediction.sample(hidden[:, -1], sampling, noise[index])
        tokens = torch.cat([tokens, token[:, None]], dim=1)
    return tokens[:, 1:]


def with_cache(model: Gpt, length: int, noise: Tensor) -> Tensor:
    """As `without_cache`, but a step computes only its own position."""
    device = noise.device
    tokens, classes, sampling = _start(device)
    cache = model.empty_cache(1, room=length)
    for index in range(length):
        hidden, fresh = model.hidden(tokens[:, -1:], classes, cache, index)
        for whole, new in zip(cache, fresh, strict=True):
            whole[:, :, index] = new[:, :, 0]
        token, _ = model.prediction.sample(hidden[:, -1], sampling, noise[index])
        tokens = torch.cat([tokens, token[:, None]], dim=1)
    return tokens[:, 1:]


def _start(device: torch.device) -> tuple[Tensor, Tensor, Sampling]:
    """The class's position int32 [1, 1], the class id int [1], and how to sample."""
    return (
        torch.full((1, 1), -1, dtype=torch.int32, device=device),
        torch.zeros(1, dtype=torch.long, device=device),
        Sampling(*(part.to(device) for part in Sampling.of(1, TEMPERATURE, TOP_K))),
    )


def _key(text: str) -> str:
    return text.replace(" ", "_")
