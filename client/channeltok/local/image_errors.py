"""Errors of the package imaging as the client's own."""

import imaging
from channeltok.errors import InvalidInput

_CODES: dict[type[imaging.BadImage], str] = {
    imaging.BadImage: "BAD_IMAGE",
    imaging.TooManyPixels: "TOO_MANY_PIXELS",
    imaging.UnsupportedFormat: "UNSUPPORTED_FORMAT",
}


def invalid_input(error: imaging.BadImage) -> InvalidInput:
    """The error that a service answers with."""
    return InvalidInput(_CODES[type(error)], str(error))
