"""A service with a planted leak, which proves the meter: it keeps all images, twice. `python -m loadtest.chaos.leaky_service`"""

from typing import Any

from service import __main__ as service
from service.core.tokenization import Encoded, Tokenization

_kept: list[bytes] = []
_encode = Tokenization.encode


async def _keep(self: Tokenization, image: bytes, *arguments: Any, **named: Any) -> Encoded:
    _kept.append(image + image)  # a copy: not shared with whoever else has it
    return await _encode(self, image, *arguments, **named)


if __name__ == "__main__":
    Tokenization.encode = _keep  # type: ignore[method-assign]
    service.main()
