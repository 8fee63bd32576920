"""Names of files: which of them are images, shards, or neither."""

_READABLE = {"jpg", "jpeg", "jpe", "jfif", "png", "webp"}
# Image formats that no tokenizer reads become rejects with a reason; other files are ignored.
_UNREADABLE = {"avif", "bmp", "gif", "heic", "heif", "ico", "jp2", "jxl"}
_UNREADABLE |= {"pgm", "pnm", "ppm", "psd", "svg", "tga", "tif", "tiff"}
SUFFIXES = _READABLE | _UNREADABLE


def split_suffix(path: str) -> tuple[str, str]:
    """The path without its suffix, and its kind: "tar", or the suffix in lower case."""
    base, _, kind = path.rpartition(".")
    if kind in ("gz", "bz2", "xz") and base.endswith(".tar"):
        return base.removesuffix(".tar"), "tar"
    return (base, kind.lower()) if base and "/" not in kind else (path, "")
