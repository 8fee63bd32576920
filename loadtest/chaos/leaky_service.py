"""A service with a planted memory leak, to prove that the leak check finds one.

It keeps three copies of every image. `python -m loadtest.chaos.leaky_service`
"""

from typing import Any

from service import __main__ as service
from service.core.tokenization import Encoded, Tokenization

_leaked: list[bytes] = []
_encode = Tokenization.encode


async def _leaky_encode(self: Tokenization, image: Any, *arguments: Any, **options: Any) -> Encoded:
    _leaked.append(3 * image)
    return await _encode(self, image, *arguments, **options)


if __name__ == "__main__":
    Tokenization.encode = _leaky_encode  # type: ignore[method-assign]
    service.main()
