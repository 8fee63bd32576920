"""An S3 service on this machine whose every response is late: moto's, in a process of its own."""

import logging
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

BUCKET = "bench"


@contextmanager
def object_store(content: Path, latency: float) -> Iterator[str]:
    """Serve the files below `content`; yields the bucket's URL.

    While it is served, this process's environment leads S3 clients to it. latency: seconds before
    each response begins.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(content, latency, theirs), daemon=True)
    process.start()
    settings = {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ours.recv()}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # clients of an earlier store
    try:
        yield f"s3://{BUCKET}"
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        process.terminate()
        process.join()


def _serve(content: Path, latency: float, port: Any) -> None:
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    store.create_bucket(BUCKET, "us-east-1")
    for path in sorted(content.rglob("*")):
        if path.is_file():
            store.put_object(BUCKET, str(path.relative_to(content)), path.read_bytes())
    application: WSGIApplication = DomainDispatcherApplication(create_backend_app)

    def late(environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        time.sleep(latency)
        return application(environ, start_response)

    server = make_server("127.0.0.1", 0, late, threaded=True)
    port.send(server.server_port)
    server.serve_forever()
