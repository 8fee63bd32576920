"""The papers' figures on this device: ChannelTok beside FlexTok, short beside long generation."""

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
from generator.output_head import gumbel
from tokenizer.models.base import Tokenizer

AT_MOST = 30.0  # seconds for one cell
IMAGES = "images per second by batch"
TEMPERATURE, TOP_K = 0.85, 200  # the paper's


def decoders(sections: Sections, channeltok: Tokenizer, device: torch.device, scale: Scale) -> None:
    """Images per second of both decoders in fp16 by batch, and how many times faster ChannelTok is.

    FlexTok without its VAE's decoder, which leaves it faster than it is. With guidance its network
    runs twice in each step: once with the tokens, once with none.
    """
    report = sections.report
    flextok = random_of(scale.flextok)
    guided = random_of(scale.flextok.model_copy(update={"guidance": 2.0}))
    tokens = scale.flextok.channels
    rows: dict[str, tuple[Tokenizer, Precision, int]] = {
        "ChannelTok": (channeltok, FP16, channeltok.shape.channels),
        "FlexTok": (flextok, FP16, tokens),
        "FlexTok with guidance": (guided, FP16, tokens),
        "ChannelTok, norms in fp16 too": (
            channeltok,
            FP16_THROUGHOUT,
            channeltok.shape.channels,
        ),
    }
    report.say(
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
            given = torch.randint(60_000, (batch, channels), dtype=torch.int32, device=device)

            def cell(
                run: Decode = run,
                precision: Precision = precision,
                given: Tensor = given,
                cells: dict[int, float] = cells,
                batch: int = batch,
            ) -> None:
                with computing(precision, device):
                    cells[batch] = batch / median_seconds(lambda: run(given), device, scale)

            sections.attempt(f"decoders, {name}, batch {batch}", cell, AT_MOST)
        best[name] = max(cells.values(), default=0.0)
        for batch, rate in cells.items():
            report.figures[_key(f"decoders_{name}_batch_{batch}_images_per_second")] = rate
        said = (f"{cells[b]:,.1f}" if b in cells else "not run" for b in scale.some_batches)
        report.say(f"| {name} | " + " | ".join(said) + " |")
        report.write(sections.folder)
    report.say("")
    for name in ("FlexTok", "FlexTok with guidance"):
        if best["ChannelTok"] and best[name]:
            times = best["ChannelTok"] / best[name]
            report.figures[_key(f"channeltok_over_{name}")] = times
            report.say(
                f"- ChannelTok over {name}, each at its best batch: **{times:.1f}** "
                "(the paper, on an A5000 at a batch of 128: 8.6)"
            )


def generation(sections: Sections, device: torch.device, scale: Scale) -> None:
    """Seconds of GPT-L over channel tokens for one image, by length, with and without a cache."""
    report = sections.report
    model = scale.gpt.build().eval().requires_grad_(False)
    ways: dict[str, Callable[[Gpt, int, Tensor], Tensor]] = {
        "without a cache": without_cache,
        "with a cache": with_cache,
    }
    report.say(
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
            found: dict[int, float] = {}
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
                    found: dict[int, float] = found,
                    ready: Gpt = ready,
                ) -> None:
                    with torch.inference_mode():
                        found[length] = median_seconds(
                            lambda: generate(ready, length, noise), device, scale
                        )

                sections.attempt(f"GPT, {precision.name}, {way}, {length} tokens", cell, AT_MOST)
            for length, seconds in found.items():
                report.figures[_key(f"gpt_{precision.name}_{way}_{length}_seconds")] = seconds
            first, last = found.get(scale.lengths[0]), found.get(scale.lengths[-1])
            ratio = f"{last / first:.1f}" if first and last else "not run"
            said = (f"{found[n]:.3f}" if n in found else "not run" for n in scale.lengths)
            report.say(f"| {precision.name}, {way} | " + " | ".join(said) + f" | {ratio} |")
            report.write(sections.folder)
    report.say("", "The paper, on an H100 without a cache: 32 tokens 0.48 s, 256 tokens 3.8 s.")


def without_cache(model: Gpt, length: int, noise: Tensor) -> Tensor:
    """Every step computes all positions again. noise: Gumbel, float [length, 1, draws, values].

    Returns token ids int32 [1, length].
    """
    device = noise.device
    tokens, classes, sampling = _start(device)
    for index in range(length):
        hidden, _ = model.hidden(tokens, classes, model.empty_cache(1), 0)
        token, _ = model.prediction.sample(hidden[:, -1], *sampling, noise[index])
        tokens = torch.cat([tokens, token[:, None]], dim=1)
    return tokens[:, 1:]


def with_cache(model: Gpt, length: int, noise: Tensor) -> Tensor:
    """As `without_cache`, but a step computes its own position alone."""
    device = noise.device
    tokens, classes, sampling = _start(device)
    cache = model.empty_cache(1, room=length)
    for index in range(length):
        hidden, fresh = model.hidden(tokens[:, -1:], classes, cache, index)
        for whole, new in zip(cache, fresh, strict=True):
            whole[:, :, index] = new[:, :, 0]
        token, _ = model.prediction.sample(hidden[:, -1], *sampling, noise[index])
        tokens = torch.cat([tokens, token[:, None]], dim=1)
    return tokens[:, 1:]


def _start(device: torch.device) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The class's place int32 [1, 1], the class int [1], and temperature and top-k."""
    return (
        torch.full((1, 1), -1, dtype=torch.int32, device=device),
        torch.zeros(1, dtype=torch.long, device=device),
        (torch.tensor([TEMPERATURE], device=device), torch.tensor([TOP_K], device=device)),
    )


def _key(text: str) -> str:
    return text.replace(" ", "_")
