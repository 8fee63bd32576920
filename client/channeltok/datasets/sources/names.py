"""Names: of files, which say what is in them, and the keys and labels that are made of them."""

import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import unquote

_READABLE = {"jpg", "jpeg", "jpe", "jfif", "png", "webp"}
# Image formats that no tokenizer reads become rejects with a reason; other files are counted.
_UNREADABLE = {"avif", "bmp", "gif", "heic", "heif", "ico", "jp2", "jxl"}
_UNREADABLE |= {"pgm", "pnm", "ppm", "psd", "svg", "tga", "tif", "tiff"}
SUFFIXES = _READABLE | _UNREADABLE
LABEL_COLUMNS = ("label", "labels", "class", "cls")
_TAR = re.compile(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_ESCAPED = re.compile(r"%(25|[89A-F][0-9A-F])")
_HIVE = re.compile(r"([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)
_NONE: Mapping[str, str | None] = MappingProxyType({})
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def split_suffix(path: str) -> tuple[str, str]:
    """The path without its suffix, and its kind: "tar", or the suffix in lower case, or ""."""
    if tar := _TAR.search(posixpath.basename(path)):
        base = path[: len(path) - len(tar[0])]
        return (base, "tar") if posixpath.basename(base) else (path, "")
    base, _, kind = path.rpartition(".")
    return (base, kind.lower()) if posixpath.basename(base) and "/" not in kind else (path, "")


def file_kind(suffix: str) -> str:
    """What a file with this suffix, which is not read, is called in counts."""
    return f".{suffix} file" if suffix.isalnum() and len(suffix) <= 8 else "other file"


def escape(name: str) -> str:
    """A name in valid Unicode: bytes that are not UTF-8 become %XX; `unescape` is the inverse.

    Python reads such bytes of file names as surrogates. A % stays as it is, except where it would
    be taken for an escaped byte: there it becomes %25.
    """
    name = _ESCAPED.sub(lambda match: "%25" + match[1], name)
    if name.isascii():
        return name
    return "".join(_escaped(character) for character in name)


def unescape(name: str) -> str:
    """The name that `escape` was given."""
    return _ESCAPED.sub(
        lambda match: "%" if match[1] == "25" else chr(0xDC00 + int(match[1], 16)), name
    )


def valid_text(text: str) -> str:
    """The text as it is, or escaped if it is no valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return escape(text)
    return text


def decode_text(data: bytes) -> str:
    """UTF-8 as text, without its byte order mark; escaped where it is not UTF-8."""
    return valid_text(data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape"))


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"%{code - 0xDC00:02X}"
    if 0xD800 <= code <= 0xDFFF:
        return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
    return character


def normalized(name: str) -> str:
    """The name of a tar's member as a relative path, without "./", "../" and a leading "/"."""
    return posixpath.normpath("/" + name.lstrip("/"))[1:]


def sample_key(name: str) -> tuple[str, str]:
    """Path up to the first dot of its last part, and what follows that dot, in lower case."""
    folder, base = posixpath.split(name)
    stem, _, suffix = base.partition(".")
    return posixpath.join(folder, stem), suffix.lower()


def partitions(path: str) -> dict[str, str | None]:
    """Values of the Hive partitions, folders NAME=VALUE, that a file lies in."""
    matches = (_HIVE.fullmatch(part) for part in posixpath.dirname(path).split("/"))
    return {
        match[1]: None if match[2] == _NO_VALUE else valid_text(unquote(match[2]))
        for match in matches
        if match
    }


def folder_label(path: str, above: Mapping[str, str | None] = _NONE) -> str | None:
    """The class that the folders of a file say: a Hive partition of that name, or the last one.

    above: partitions of the folders above `path`.
    """
    values = {**above, **partitions(path)}
    for name in LABEL_COLUMNS:
        if values.get(name) is not None:
            return values[name]
    folders = [
        part for part in posixpath.dirname(path).split("/") if part and not _HIVE.fullmatch(part)
    ]
    return escape(folders[-1]) if folders else None


def not_read(name: str) -> str:
    """Kind of a tar's member that is never read, whatever its suffix; "" for all others."""
    parts = name.split("/")
    if parts[-1].startswith("._") or "__MACOSX" in parts:
        return "macOS metadata file"
    return "hidden file" if any(part.startswith(".") for part in parts) else ""


class UniqueNames:
    """Numbers names that come again: NAME, NAME#1, NAME#2."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def add(self, name: str) -> str:
        """The name, or the first numbered one that was not there before."""
        unique = name
        while unique in self._taken:
            self._numbers[name] += 1
            unique = f"{name}#{self._numbers[name]}"
        self._taken.add(unique)
        return unique
