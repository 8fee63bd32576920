"""Tokens and token bytes: round trips, refusals and the pinned format."""

import numpy as np
import pytest
from channeltok import TokenBytesError, Tokens
from hypothesis import given
from hypothesis import strategies as st

FINGERPRINT = "0123456789abcdef"

ids_lists = st.lists(st.integers(0, 65_535), min_size=1, max_size=600)
fingerprints = st.text("0123456789abcdef", min_size=16, max_size=16)
some_tokens = st.builds(Tokens, ids_lists, fingerprints)

# Version 1, for ever: reading or writing these otherwise would break every stored file.
GOLDEN_BYTES = bytes.fromhex("43544f4b 01 00 0500 00112233445566ff 0000 0100 ff00 0001 ffff")
GOLDEN_TOKENS = Tokens([0, 1, 255, 256, 65_535], "00112233445566ff")


def test_token_bytes_of_version_1_are_pinned() -> None:
    assert GOLDEN_TOKENS.to_bytes() == GOLDEN_BYTES
    assert Tokens.from_bytes(GOLDEN_BYTES) == GOLDEN_TOKENS


@given(some_tokens)
def test_token_bytes_round_trip(tokens: Tokens) -> None:
    again = Tokens.from_bytes(tokens.to_bytes())
    assert again == tokens
    assert hash(again) == hash(tokens)
    assert again.ids.dtype == np.uint16
    assert len(tokens.to_bytes()) == 16 + 2 * tokens.k


@pytest.mark.parametrize("k", [1, 65_535])
def test_token_bytes_round_trip_at_the_limits_of_k(k: int) -> None:
    tokens = Tokens(np.arange(k) % 65_536, FINGERPRINT)
    assert Tokens.from_bytes(tokens.to_bytes()) == tokens
    assert tokens.k == k


@given(some_tokens, st.data())
def test_prefix_rewrites_k_and_cuts_the_tail(tokens: Tokens, data: st.DataObject) -> None:
    j = data.draw(st.integers(1, tokens.k))
    whole = tokens.to_bytes()
    assert (
        tokens.prefix(j).to_bytes() == whole[:6] + j.to_bytes(2, "little") + whole[8 : 16 + 2 * j]
    )


@pytest.mark.parametrize("k", [0, -1, 6, 70_000])
def test_prefix_refuses_k_out_of_range(k: int) -> None:
    with pytest.raises(ValueError, match="1 to 5"):
        GOLDEN_TOKENS.prefix(k)


def never_misread(data: bytes) -> None:
    try:
        tokens = Tokens.from_bytes(data)
    except TokenBytesError:
        return
    assert tokens.to_bytes() == data


@given(some_tokens, st.data())
def test_from_bytes_never_misreads_changed_bytes(tokens: Tokens, data: st.DataObject) -> None:
    changed = bytearray(tokens.to_bytes())
    # Most changes go to the header: behind it every byte is as good as another.
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, min(len(changed), 24) - 1))] = data.draw(
            st.integers(0, 255)
        )
    never_misread(bytes(changed))


@given(some_tokens, st.data())
def test_from_bytes_refuses_truncated_bytes(tokens: Tokens, data: st.DataObject) -> None:
    whole = tokens.to_bytes()
    with pytest.raises(TokenBytesError):
        Tokens.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(some_tokens, st.binary(min_size=1, max_size=8))
def test_from_bytes_refuses_extra_bytes(tokens: Tokens, more: bytes) -> None:
    with pytest.raises(TokenBytesError, match="exactly"):
        Tokens.from_bytes(tokens.to_bytes() + more)


@given(st.binary(max_size=64) | st.binary(max_size=48).map(lambda tail: b"CTOK\x01\x00" + tail))
def test_from_bytes_never_misreads_arbitrary_bytes(data: bytes) -> None:
    never_misread(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (GOLDEN_BYTES[:1], "end after 1 bytes"),
        (GOLDEN_BYTES[:15], "end after 15 bytes"),
        (b"\x89PNG" + GOLDEN_BYTES[4:], "PNG"),
        (GOLDEN_BYTES[:4] + b"\x02" + GOLDEN_BYTES[5:], "version 2: this release reads version 1"),
        (GOLDEN_BYTES[:4] + b"\x00" + GOLDEN_BYTES[5:], "version 0"),
        (GOLDEN_BYTES[:5] + b"\x80" + GOLDEN_BYTES[6:], "reserved byte of the token bytes is 128"),
        (GOLDEN_BYTES[:6] + b"\x00\x00" + GOLDEN_BYTES[8:], "k = 0: k is 1 to 65535"),
        (GOLDEN_BYTES[:6] + b"\x00\x00" + GOLDEN_BYTES[8:16], "k = 0"),
        (GOLDEN_BYTES[:16], "with k = 5 they are exactly 26"),
        (GOLDEN_BYTES[:-1], "are 25 long"),
        (GOLDEN_BYTES + b"\x00", "are 27 long"),
        (GOLDEN_BYTES * 2, "are 52 long"),
    ],
)
def test_from_bytes_says_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(TokenBytesError, match=message):
        Tokens.from_bytes(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_from_bytes_takes_any_bytes_like_object(kind: type) -> None:
    assert Tokens.from_bytes(kind(GOLDEN_BYTES)) == GOLDEN_TOKENS


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([65_536], "65536"),
        ([0, -1], "-1"),
        (np.array([-1], np.int16), "-1"),
        (np.array([-1], np.int8), "-1"),
        (np.array([2**32], np.uint64), "4294967296"),
        ([2**70], "integers"),
        ([0.0, 1.0], "integers"),
        ([True], "integers"),
        (["7"], "integers"),
        ([], "1 to 65535 tokens, not 0"),
        (np.zeros(65_536, np.uint16), "not 65536"),
        ([[1, 2], [3, 4]], "one-dimensional"),
        (7, "one-dimensional"),
    ],
)
def test_tokens_never_wrap_or_round_ids(ids: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokens(ids, FINGERPRINT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64, ">u2", ">i4"]
)
def test_tokens_take_every_integer_dtype_by_value(dtype: str) -> None:
    assert Tokens(np.array([1, 2, 100], dtype), FINGERPRINT).ids.tolist() == [1, 2, 100]


@pytest.mark.parametrize(
    "fingerprint",
    ["", "0" * 15, "0" * 17, "ABCDEF0123456789", "g" * 16, "0" * 16 + "\n", "\uff10" * 16],
)
def test_tokens_refuse_other_fingerprints_than_16_hex_digits(fingerprint: str) -> None:
    with pytest.raises(ValueError, match="16 lower-case hex digits"):
        Tokens([1], fingerprint)


def test_tokens_are_immutable() -> None:
    mine = np.array([1, 2, 3], np.uint16)
    tokens = Tokens(mine, FINGERPRINT)
    mine[0] = 9
    assert tokens.ids.tolist() == [1, 2, 3]
    data = bytearray(tokens.to_bytes())
    read = Tokens.from_bytes(data)
    data[16] = 9
    assert read == tokens
    for each in (tokens, read, tokens.prefix(2)):
        with pytest.raises(ValueError, match="read-only"):
            each.ids[0] = 9


def test_tokens_are_equal_by_ids_and_fingerprint() -> None:
    assert Tokens([1, 2], FINGERPRINT) == Tokens(np.array([1, 2]), FINGERPRINT)
    assert Tokens([1, 2], FINGERPRINT) != Tokens([1, 3], FINGERPRINT)
    assert Tokens([1, 2], FINGERPRINT) != Tokens([1], FINGERPRINT)
    assert Tokens([1, 2], FINGERPRINT) != Tokens([1, 2], "f" * 16)
    assert Tokens([1, 2], FINGERPRINT) != b"CTOK"
