"""Triton models of tokenizers and generators, as the registry reads them."""

import numpy as np

from service.triton.models import Model, Tensor

IMAGE, TOKENS = (
    Tensor("picture", "UINT8", np.uint8, (128, 128, 3)),
    Tensor("tokens", "INT32", np.int32, (256,)),
)
FACTS = {
    "family": "channeltok",
    "picture_size": "128",
    "channels": "256",
    "bits_per_token": "16",
    "fingerprint": "00" * 8,
}


def models(
    name: str, fingerprint: str, budgets: tuple[int, ...] = (256,), version: int = 1
) -> list[Model]:
    facts = {**FACTS, "tokenizer": name, "fingerprint": fingerprint, "version": str(version)}
    encode = Model(f"{name}_encode", IMAGE, TOKENS, {**facts, "role": "encode", "budget": "256"})
    decodes = [
        Model(f"{name}_decode_k{k}", TOKENS, IMAGE, {**facts, "role": "decode", "budget": str(k)})
        for k in budgets
    ]
    return [encode, *decodes]


A, B, C = "a" * 16, "b" * 16, "c" * 16


def generator(name: str, fingerprint: str, version: int = 1, **changed: str) -> Model:
    facts = {
        "generator": name,
        "role": "generate",
        "family": "gpt",
        "fingerprint": fingerprint,
        "bits_per_token": "16",
        "channels": "256",
        "interface": "2",
    }
    own = {
        "generator_fingerprint": f"{version:016x}",
        "version": str(version),
        "classes": '["cat", "dog"]',
    }
    return Model(f"{name}_generate", TOKENS, TOKENS, {**facts, **own, **changed})
