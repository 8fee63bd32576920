"""Files of bearer tokens, as the service and the command line read them."""

import codecs
import re

_COMMENT = re.compile(r"(^|\s)#.*")  # a token has no blank, and the service takes none with #


def read_bearer_tokens(content: bytes) -> list[tuple[int, str]]:
    """Number (from 1) and text of each line that has one, without blanks around it and comments.

    content: UTF-8, or UTF-16 with a byte order mark, as some editors and shells of Windows write
    it; line ends of any system. Raises ValueError for what is no text, without showing it.
    """
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_utf_16 else "utf-8", "replace")
    if "\0" in text:
        raise ValueError("it is not a text file")
    lines = text.replace("\ufeff", "").splitlines()  # one mark per file that was put into this one
    numbered = ((number, _COMMENT.sub("", line).strip()) for number, line in enumerate(lines, 1))
    return [(number, line) for number, line in numbered if line]
