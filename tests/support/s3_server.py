"""A real S3 API on this machine (moto's server), whose user can lose its rights at any moment."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.request import Request, urlopen

import boto3
import fsspec
from moto.server import ThreadedMotoServer

BUCKET = "bucket"
_EVERYTHING = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}


class S3Server:
    """A server with one bucket, and one user who may do everything in it until `revoke`."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._check_rights(False)
        self._post("reset", b"")  # all servers of a process share what moto holds
        credentials = {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
        options: dict[str, Any] = {"endpoint_url": endpoint, "region_name": "us-east-1"}
        self._iam = boto3.client("iam", **options, **credentials)
        boto3.client("s3", **options, **credentials).create_bucket(Bucket=BUCKET)
        self._iam.create_user(UserName="reader")
        key = self._iam.create_access_key(UserName="reader")["AccessKey"]
        self.options = {
            "key": key["AccessKeyId"],
            "secret": key["SecretAccessKey"],
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
            "skip_instance_cache": True,
        }
        self.allow()

    def allow(self) -> None:
        """Give the user all rights."""
        self._check_rights(False)
        self._iam.put_user_policy(
            UserName="reader", PolicyName="all", PolicyDocument=json.dumps(_EVERYTHING)
        )
        self._check_rights(True)

    def revoke(self) -> None:
        """Take all rights from the user: every request is now a 403."""
        self._check_rights(False)
        self._iam.delete_user_policy(UserName="reader", PolicyName="all")
        self._check_rights(True)

    def _check_rights(self, check: bool) -> None:
        free_requests = b"0" if check else b"inf"
        self._post("reset-auth", free_requests)

    def _post(self, action: str, content: bytes) -> None:
        url, text = f"{self._endpoint}/moto-api/{action}", {"Content-Type": "text/plain"}
        urlopen(Request(url, content, text, method="POST")).close()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start a server; URLs s3://... lead to it until the end of `with`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        s3 = S3Server(f"http://{host}:{port}")
        with mock.patch.dict(fsspec.config.conf, {"s3": s3.options}):
            yield s3
    finally:
        server.stop()
