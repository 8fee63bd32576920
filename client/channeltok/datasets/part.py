"""A part of a source, for one of several machines."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import Self

from channeltok.datasets.sources import Shard


@dataclass(frozen=True)
class Part:
    """The i-th of n parts, 1 <= i <= n."""

    i: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "I/N". Raises ValueError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"a part is I/N with 1 <= I <= N, such as 1/8, not {text!r}")
        return cls(int(match[1]), int(match[2]))

    def of(self, shards: Sequence[Shard]) -> list[Shard]:
        """Every n-th shard by name, from the i-th; no other part has any of them."""
        return sorted(shards, key=lambda shard: shard.name)[self.i - 1 :: self.n]
