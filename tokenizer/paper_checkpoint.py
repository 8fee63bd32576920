"""Checkpoints trained elsewhere with the module names of the paper's training code, read into a ChannelTok.

There a layer is `encoder.model.<i>` or `decoder.model.<i>`, numbered in one flat sequence that counts SiLUs and the Tanh too, and the last
Downs of the encoder are `encoder.spatial_adjust.{0,2,4}.conv`. Ours are numbered the same way without a break, so the map is short.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tokenizer.models.channeltok import SIZES, ChannelTok, PaperShape

_WRAPPERS = (
    "module.",
    "model.",
    "_orig_mod.",
)  # DistributedDataParallel, a trainer's attribute, torch.compile
_NOT_THE_MODEL = ("perceptual_loss", "discriminator", "lpips")
_INSIDE = {"skip": "channel_up", "out": "proj_out"}  # our name inside a Res or an Attn, and theirs
_SHOWN = 12


def their_names(model: ChannelTok) -> dict[str, str]:
    """Our name of each weight to theirs, for a model with a PaperShape."""
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.GroupNorm)}
    adjust = 1 + max(
        int(name)
        for name, module in model.encoder.named_children()
        if isinstance(module, nn.Conv2d)
    )
    names = {}
    for ours in model.state_dict():
        layer, _, weight = ours.rpartition(".")
        side, index, *inside = layer.split(".")
        number = int(index)
        theirs = (
            f"{side}.spatial_adjust.{number - adjust}"
            if side == "encoder" and number >= adjust
            else f"{side}.model.{number}"
        )
        path = [
            theirs,
            *(_INSIDE.get(part, part) for part in inside),
            *(["gn"] if layer in norms else []),
            weight,
        ]
        names[ours] = ".".join(path)
    return names


def load(tensors: Mapping[str, Tensor]) -> ChannelTok:
    """The model whose weights these are, rounded to fp16 as every checkpoint here is, in fp32 and ready for inference.

    tensors: by their names, wrapper prefixes and the losses' weights included. The size is found by trying all that the paper has.
    Raises ValueError, with what differs from the nearest size, when none has exactly these names and shapes, and when fp16 cannot hold a
    weight.
    """
    given = {
        _unwrapped(name): value
        for name, value in tensors.items()
        if not any(part in name for part in _NOT_THE_MODEL)
    }
    differences = {}
    for size, shape in SIZES.items():
        if not isinstance(shape, PaperShape):
            continue
        with torch.device("meta"):
            model = ChannelTok(shape)
        names = their_names(model)
        differences[size] = _differences(
            {names[ours]: value for ours, value in model.state_dict().items()}, given
        )
        if not differences[size]:
            return _filled(model, {ours: given[theirs] for ours, theirs in names.items()})
    nearest = min(differences, key=lambda size: len(differences[size]))
    found = differences[nearest]
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    raise ValueError(
        f"no size of ChannelTok has these weights; {len(found)} differ from the nearest, {nearest!r}: {'; '.join(found[:_SHOWN] + more)}"
    )


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    return [
        *(f"{name} is missing" for name in wanted if name not in given),
        *(f"{name} is not part of it" for name in given if name not in wanted),
        *(
            f"{name} has shape {list(given[name].shape)}, not {list(value.shape)}"
            for name, value in wanted.items()
            if name in given and given[name].shape != value.shape
        ),
    ]


def _filled(model: ChannelTok, weights: Mapping[str, Tensor]) -> ChannelTok:
    rounded = {name: value.to(torch.float16).float() for name, value in weights.items()}
    beyond = [name for name, value in rounded.items() if not value.isfinite().all()]
    if beyond:
        raise ValueError(
            f"{len(beyond)} weights are not finite in fp16, {beyond[0]} first: such a model cannot be stored here"
        )
    model.load_state_dict(rounded, assign=True)
    return model.eval()
