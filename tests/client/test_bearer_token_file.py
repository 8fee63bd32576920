import codecs

import pytest
from channeltok.bearer_token_file import read_bearer_tokens


@pytest.mark.parametrize(
    "content",
    [
        b"one\ntwo\n",
        b"one\r\ntwo\r\n",
        b"one\rtwo",
        b"  one \t\n\n \ntwo  ",
        codecs.BOM_UTF8 + b"one\ntwo\n",
        codecs.BOM_UTF8 + b"one\r\n" + codecs.BOM_UTF8 + b"two\r\n",  # two files put into one
        codecs.BOM_UTF16_LE + "one\r\ntwo\r\n".encode("utf-16-le"),  # PowerShell's >
        codecs.BOM_UTF16_BE + "one\ntwo\n".encode("utf-16-be"),
        b"# those of production\none # Alice's\n\t# none\ntwo\t# J\xf6rg's, in Latin-1\n",
    ],
)
def test_read_bearer_tokens_reads_files_of_every_system(content: bytes) -> None:
    assert [line for _, line in read_bearer_tokens(content)] == ["one", "two"]


def test_read_bearer_tokens_counts_every_line_and_splits_none() -> None:
    content = b"\n# a comment\r\none\n\r\ntwo#not a comment\n"
    assert read_bearer_tokens(content) == [(3, "one"), (5, "two#not a comment")]


@pytest.mark.parametrize(
    "content",
    [b"secret\0", b"\x1f\x8b\x08\0secret", codecs.BOM_UTF8 + b"s\0e\0c\0r\0e\0t\0"],
)
def test_read_bearer_tokens_refuses_what_is_no_text_without_showing_it(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a text file") as caught:
        read_bearer_tokens(content)
    assert "secret" not in str(caught.value)
