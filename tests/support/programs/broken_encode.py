"""The service with an Encode that raises an exception nobody expects."""

from typing import Any

from service.__main__ import main
from service.core.tokenization import Tokenization


async def encode(self: Tokenization, image: bytes, *rest: Any, **options: Any) -> None:
    raise RuntimeError("deliberate")


Tokenization.encode = encode  # type: ignore[assignment, method-assign]
main()
