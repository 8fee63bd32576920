"""Certificates for tests, made on the spot."""

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Files:
    """PEM files of one certificate and its key."""

    certificate: Path
    key: Path


def issue(ca: trustme.CA, folder: Path, name: str, *, expired: bool = False) -> Files:
    """Issue a certificate for 127.0.0.1 into files of that name, replacing an earlier one."""
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = ca.issue_cert("127.0.0.1", not_after=yesterday if expired else None)
    files = Files(folder / f"{name}.pem", folder / f"{name}.key")
    files.certificate.write_bytes(b"".join(one.bytes() for one in certificate.cert_chain_pems))
    files.key.write_bytes(certificate.private_key_pem.bytes())
    return files


def write_ca(ca: trustme.CA, folder: Path, name: str) -> Path:
    """The CA's own certificate, as a file."""
    file = folder / f"{name}.pem"
    ca.cert_pem.write_to_path(str(file))
    return file
