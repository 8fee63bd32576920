"""Import checkpoints of the paper's training code: map their weight names to ChannelTok's.

There, a layer is `encoder.model.<i>` or `decoder.model.<i>`, numbered in one flat sequence that
counts SiLUs and the Tanh too, and the last Downs of the encoder are
`encoder.spatial_adjust.{0,2,4}.conv`. Ours are numbered the same way without a break.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tokenizer.models.channeltok import SIZES, ChannelTok, PaperShape

# Prefixes of DistributedDataParallel, a trainer's attribute, and torch.compile
_WRAPPERS = ("module.", "model.", "_orig_mod.")
_NOT_THE_MODEL = ("perceptual_loss", "discriminator", "lpips")
_SUBMODULES = {"skip": "channel_up", "out": "proj_out"}  # our name within a Res or Attn to theirs
_MAX_LISTED = 12  # differences in an error message


def their_names(model: ChannelTok) -> dict[str, str]:
    """Map our name of each weight to theirs, for a model with a PaperShape."""
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
            *(_SUBMODULES.get(part, part) for part in inside),
            *(["gn"] if layer in norms else []),
            weight,
        ]
        names[ours] = ".".join(path)
    return names


def load(tensors: Mapping[str, Tensor]) -> ChannelTok:
    """The model with these weights, in fp32 but rounded to fp16 like all checkpoints, in eval mode.

    tensors: by their names, possibly with wrapper prefixes and the weights of losses. The size is
    found by trying all sizes of the paper. Raises ValueError when no size has exactly these names
    and shapes, listing the differences to the nearest one, and when fp16 cannot hold a weight.
    """
    weights = {
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
            {names[ours]: value for ours, value in model.state_dict().items()}, weights
        )
        if not differences[size]:
            return _filled(model, {ours: weights[theirs] for ours, theirs in names.items()})
    nearest = min(differences, key=lambda size: len(differences[size]))
    listed = differences[nearest][:_MAX_LISTED]
    count = len(differences[nearest])
    if count > len(listed):
        listed.append(f"and {count - len(listed)} more")
    raise ValueError(
        f"no size of ChannelTok has these weights; {count} differ from the nearest, {nearest!r}: "
        f"{'; '.join(listed)}"
    )


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _differences(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> list[str]:
    return [
        *(f"{name} is missing" for name in expected if name not in actual),
        *(f"{name} is not part of it" for name in actual if name not in expected),
        *(
            f"{name} has shape {list(actual[name].shape)}, not {list(value.shape)}"
            for name, value in expected.items()
            if name in actual and actual[name].shape != value.shape
        ),
    ]


def _filled(model: ChannelTok, weights: Mapping[str, Tensor]) -> ChannelTok:
    rounded = {name: value.to(torch.float16).float() for name, value in weights.items()}
    beyond = [name for name, value in rounded.items() if not value.isfinite().all()]
    if beyond:
        raise ValueError(
            f"{len(beyond)} weights are not finite in fp16, {beyond[0]} first: such a model cannot "
            "be stored here"
        )
    model.load_state_dict(rounded, assign=True)
    return model.eval()
