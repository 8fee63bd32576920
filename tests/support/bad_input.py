"""Images and values of k that every protocol must refuse, and the check of a problem document."""

import io
import struct
import zlib

import httpx
from PIL import Image

from tests.support.photographs import encoded, jpeg, photograph


def bomb(width: int = 9000, height: int = 9000) -> bytes:
    """A PNG of 69 bytes whose header claims 81 megapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 4))
        + chunk(b"IEND", b"")
    )


def animated_webp() -> bytes:
    """A WebP of two frames."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


_PHOTO = Image.fromarray(photograph("chelsea"))
# Name -> bytes, error code, HTTP status.
BAD_IMAGES = {
    "not an image": (b"this is no image at all", "BAD_IMAGE", 422),
    "empty": (b"", "BAD_IMAGE", 422),
    "truncated JPEG": (jpeg()[: len(jpeg()) // 2], "BAD_IMAGE", 422),
    "truncated PNG": (encoded(_PHOTO, "PNG")[:5000], "BAD_IMAGE", 422),
    "truncated WebP": (encoded(_PHOTO, "WEBP")[:5000], "BAD_IMAGE", 422),
    "GIF": (encoded(_PHOTO, "GIF"), "UNSUPPORTED_FORMAT", 415),
    "BMP": (encoded(_PHOTO, "BMP"), "UNSUPPORTED_FORMAT", 415),
    "TIFF": (encoded(_PHOTO, "TIFF"), "UNSUPPORTED_FORMAT", 415),
    "81 megapixels in 69 bytes": (bomb(), "TOO_MANY_PIXELS", 413),
    "animated WebP": (animated_webp(), "BAD_IMAGE", 422),
}
BAD_K = ["0", "-1", "257", "abc", "", "1.5", "99999999999999999999"]


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    """The response is a complete application/problem+json with this status and error code."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["title"]
    assert len(problem["detail"]) > 10
