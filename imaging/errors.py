"""Why bytes are refused as an image. Every message is fit for the caller who sent them."""

ACCEPTED = "JPEG, PNG or WebP"


class BadImage(ValueError):
    """The bytes are no readable image: empty, broken, truncated, animated, or something else."""


class UnsupportedFormat(BadImage):
    """The bytes are an image, but of a format, or a kind of JPEG, that is not accepted."""


class TooManyPixels(BadImage):
    """The header claims more pixels than allowed; nothing was decoded."""


def damaged(format: str, reason: str = "truncated or damaged") -> BadImage:
    """The error for a file of an accepted format that cannot be decoded."""
    return BadImage(f"the {format} cannot be decoded: {reason}")


def unsupported(what: str) -> UnsupportedFormat:
    """The error for an image that is whole, but not accepted."""
    return UnsupportedFormat(f"this is {what}: send a {ACCEPTED}")
