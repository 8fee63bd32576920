"""The command line, run as a function against the faulty service."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from channeltok import Tokens
from channeltok.cli import main

from tests.support.faulty_service import FINGERPRINT, tokens_of

GRPC_LOG = re.compile(r"[IWE]\d{4} \d\d:\d\d:")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> Path:
    """Every case runs in an empty folder, with the faulty service as its server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHANNELTOK_SERVER", target)
    return tmp_path


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capfd.readouterr()
    # gRPC itself may log that a connection of an earlier test in this process has ended.
    lines = [line for line in err.splitlines(keepends=True) if not GRPC_LOG.match(line)]
    return code, out, "".join(lines)


def test_encode_and_decode_name_files_by_default(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "photo.jpg").write_bytes(b"abcdef")
    summary = f"photo.ctok: 4 tokens, 24 bytes, fingerprint {FINGERPRINT}\n"
    assert run(capfd, "encode", "photo.jpg", "-k", "4") == (0, summary, "")
    assert (here / "photo.ctok").read_bytes() == tokens_of(b"abcd").to_bytes()
    summary = f"photo.png: png of 8 bytes, from 4 tokens, fingerprint {FINGERPRINT}\n"
    assert run(capfd, "decode", "photo.ctok") == (0, summary, "")
    assert (here / "photo.png").read_bytes() == b"png:abcd"


def test_encode_writes_to_the_named_file(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "photo.jpg").write_bytes(b"abc")
    assert run(capfd, "encode", "photo.jpg", "-o", "other.bin", "--tokenizer", "bytewise")[0] == 0
    assert (here / "other.bin").read_bytes() == tokens_of(b"abc").to_bytes()
    assert not (here / "photo.ctok").exists()


def test_encode_prints_ids_alone_on_stdout(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "photo.jpg").write_bytes(b"abc")
    code, out, err = run(capfd, "encode", "photo.jpg", "--ids")
    assert (code, out) == (0, "97 98 99\n")
    assert err.startswith("photo.ctok: 3 tokens")


def test_encode_and_decode_write_to_stdout(
    here: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (here / "photo.jpg").write_bytes(b"abc")
    assert main(["encode", "photo.jpg", "-o", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == tokens_of(b"abc").to_bytes()
    assert err.startswith(b"stdout: 3 tokens")
    (here / "photo.ctok").write_bytes(out)
    assert main(["decode", "photo.ctok", "-o", "-"]) == 0
    assert capfdbinary.readouterr().out == b"png:abc"


@pytest.mark.parametrize(
    ("suffix", "format"),
    [("png", "png"), ("jpg", "jpeg"), ("jpeg", "jpeg"), ("webp", "webp"), ("JPG", "jpeg")],
)
def test_decode_takes_the_format_from_the_suffix(
    here: Path, capfd: pytest.CaptureFixture[str], suffix: str, format: str
) -> None:
    (here / "photo.ctok").write_bytes(tokens_of(b"abc").to_bytes())
    assert run(capfd, "decode", "photo.ctok", "-o", f"back.{suffix}")[0] == 0
    assert (here / f"back.{suffix}").read_bytes() == f"{format}:abc".encode()


def test_decode_overwrites_only_a_named_file(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "photo.png").write_bytes(b"the original")
    (here / "photo.ctok").write_bytes(tokens_of(b"abc").to_bytes())
    code, _, err = run(capfd, "decode", "photo.ctok")
    assert (code, err) == (
        1,
        "channeltok: photo.png exists; to overwrite it, use -o photo.png\n",
    )
    assert (here / "photo.png").read_bytes() == b"the original"
    assert run(capfd, "decode", "photo.ctok", "-o", "photo.png")[0] == 0
    assert (here / "photo.png").read_bytes() == b"png:abc"


def test_info_lists_tokenizers(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "info")
    assert code == 0
    assert out.splitlines() == [
        "name         family  fingerprint       max_tokens  bits  vocab_size  pixels   budgets"
        "    relative_costs",
        "bytewise     none    0123456789abcdef  256         8     256         64x64    32 64 256"
        "  0.25 0.5 1",
        "another-one  none    ffffffffffffffff  8           16    64000       256x256",
    ]
    assert run(capfd, "info", "--tokenizer", "another-one")[1].splitlines() == [
        "name         family  fingerprint       max_tokens  bits  vocab_size  pixels   budgets"
        "  relative_costs",
        "another-one  none    ffffffffffffffff  8           16    64000       256x256",
    ]


def test_info_describes_a_file_without_a_service(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "photo.ctok").write_bytes(Tokens(range(100, 120), FINGERPRINT).to_bytes())
    code, out, err = run(capfd, "info", "photo.ctok", "--server", "127.0.0.1:1")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "k            20",
        "fingerprint  0123456789abcdef",
        "bytes        56",
        "ids          100 101 102 103 104 105 106 107 ...",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("encode missing.jpg", 1, "missing.jpg: No such file or directory"),
        ("encode .", 1, "Is a directory"),
        ("encode /", 1, "Is a directory"),
        ("encode good.jpg -o no/such/folder.ctok", 1, "No such file or directory"),
        ("encode bad.jpg", 1, "this is BAD_IMAGE [BAD_IMAGE]"),
        ("encode overload.jpg", 1, "(try again in 1.5 s)"),
        ("encode good.jpg -k 0", 1, "BAD_K"),
        ("encode good.jpg -k -1", 1, "BAD_K"),
        ("encode good.jpg --tokenizer none", 1, "UNKNOWN_TOKENIZER"),
        ("encode good.jpg --server 127.0.0.1:1", 1, "no service at 127.0.0.1:1"),
        ("encode good.jpg --server @@", 1, "no service at @@"),
        ("decode good.jpg", 1, "good.jpg: the token bytes end after 3 bytes"),
        ("decode missing.ctok", 1, "missing.ctok: No such file or directory"),
        ("decode foreign.ctok", 1, "FINGERPRINT_MISMATCH"),
        ("info good.jpg", 1, "good.jpg: the token bytes end"),
        ("info --server 127.0.0.1:1", 1, "no service at 127.0.0.1:1"),
        ("info --tokenizer none", 1, "served: bytewise, another-one"),
        ("decode foreign.ctok -o back.gif", 2, "one of .png, .jpg, .jpeg, .webp"),
        ("decode foreign.ctok -o back", 2, "one of .png, .jpg, .jpeg, .webp"),
        ("encode good.jpg --ids -o -", 2, "--ids"),
        ("encode good.jpg --server=", 2, "--server: is empty"),
        ("encode good.jpg -k many", 2, "-k"),
        ("encode", 2, "IMAGE"),
        ("", 2, "COMMAND"),
        ("paint good.jpg", 2, "paint"),
    ],
)
def test_commands_report_failures_in_one_line(
    here: Path, capfd: pytest.CaptureFixture[str], arguments: str, code: int, message: str
) -> None:
    (here / "good.jpg").write_bytes(b"abc")
    (here / "bad.jpg").write_bytes(b"fail:BAD_IMAGE")
    (here / "overload.jpg").write_bytes(b"fail:OVERLOADED")
    (here / "foreign.ctok").write_bytes(Tokens([1], "f" * 16).to_bytes())
    actual, out, err = run(capfd, *arguments.split())
    assert actual == code
    assert out == ""
    assert err.startswith("channeltok: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (here / "good.ctok").exists()


def test_installed_command_runs(here: Path, target: str) -> None:
    (here / "photo.jpg").write_bytes(b"abc")
    command = str(Path(sys.executable).parent / "channeltok")
    done = subprocess.run(
        [command, "encode", "photo.jpg"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("photo.ctok: 3 tokens")
    assert done.stderr == ""
    # Output that nobody reads to the end is no failure worth a traceback.
    (here / "photo.ctok").write_bytes(tokens_of(b"x" * 60_000).to_bytes())
    with subprocess.Popen(
        [command, "decode", "photo.ctok", "-o", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
