"""The demo tokenizer in this process."""

from collections.abc import Iterator

import pytest
from channeltok import Tokenizer


@pytest.fixture(scope="package")
def tokenizer() -> Iterator[Tokenizer]:
    with Tokenizer.from_pretrained("demo") as opened:
        yield opened
