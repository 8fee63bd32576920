"""What replies say of a result: tokens as JSON, stage times, the engine that computed it."""

from dataclasses import asdict
from typing import Any

from service.core.call_record import Stages
from service.core.tokenization import Encoded
from service.rest import headers


def tokens_document(encoded: Encoded) -> dict[str, Any]:
    """A TokensDocument, without pydantic: this is the hot path."""
    document: dict[str, Any] = {
        "tokenizer": encoded.tokenizer.name,
        "fingerprint": encoded.tokens.fingerprint,
        "k": encoded.tokens.k,
        "tokens": encoded.tokens.ids.tolist(),
    }
    if encoded.curve:
        document["curve"] = [asdict(point) for point in encoded.curve]
    if encoded.tokens.view is not None:
        document["view"] = asdict(encoded.tokens.view)
    return document


def result_headers(stages: Stages, engine: str) -> dict[str, str]:
    """engine: what computed the result, such as "openvino bf16"."""
    timing = ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in stages.items())
    return {headers.TIMING: timing, headers.ENGINE: engine}
