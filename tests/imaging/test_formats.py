"""Whole images of formats that are not accepted are refused by name; what is no image is not."""

import re

import pytest

import imaging
from imaging import BadImage, UnsupportedFormat
from tests.support.images.foreign import FILES, NO_IMAGES


@pytest.mark.parametrize(
    ("name", "data"),
    FILES,
    ids=[name for name, _ in FILES],
)
def test_prepare_names_unsupported_formats(name: str, data: bytes) -> None:
    with pytest.raises(UnsupportedFormat) as refused:
        imaging.prepare(data, 16)
    assert re.search(rf"^this is .*\b{name}\b.*: send a JPEG, PNG or WebP$", str(refused.value))


@pytest.mark.parametrize("data", NO_IMAGES, ids=[repr(data[:8]) for data in NO_IMAGES])
def test_prepare_says_that_other_bytes_are_no_image(data: bytes) -> None:
    with pytest.raises(BadImage, match="not an image") as refused:
        imaging.prepare(data, 16)
    assert not isinstance(refused.value, UnsupportedFormat)


def test_prepare_refuses_every_first_two_bytes() -> None:
    for first in range(256):
        for second in range(256):
            with pytest.raises(BadImage):
                imaging.prepare(bytes([first, second]) + b"\0\0\0\0ftyp" * 3, 16)
