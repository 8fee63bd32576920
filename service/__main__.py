"""`python -m service`: one gateway process, or several with --workers."""

import os
import shutil
import sys
import tempfile

# gRPC reads it when it is imported. Sockets are polled by the thread that hands events over to our
# event loop, not by two more: a call takes a tenth less of a core (docs/decisions/0069).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")

import uvloop
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from service import gateway, workers
from service.errors import CannotContinue, CannotStart
from service.observability import logs, metrics_folder, output, tracing
from service.security.tls import grpc_environment
from service.settings import Settings, explain

METRICS_PREFIX = "channeltok-metrics-"  # of metrics folders made here, not by an operator


def main() -> None:
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        sys.exit(explain(error))
    except SettingsError as error:
        sys.exit(f"channeltok service: {error}")
    try:
        _run(settings)
    except (CannotStart, CannotContinue, tracing.UnsupportedProtocol) as error:
        sys.exit(f"channeltok service: {error}")


def _run(settings: Settings) -> None:
    # Libraries have read some of the environment when they were imported: start again with more.
    missing = grpc_environment(settings).items() - os.environ.items()
    if settings.workers > 1 and metrics_folder.NAME not in os.environ:
        missing |= metrics_folder.prepare(_metrics_folder(), settings.workers).items()
    if missing:
        os.environ.update(missing)
        os.execv(sys.executable, [sys.executable, "-m", __package__, *sys.argv[1:]])
    output.take_over()
    logs.configure(settings.log_level)
    try:
        tracing.start()
        uvloop.run(gateway.serve(settings) if settings.workers == 1 else workers.serve(settings))
    finally:
        if settings.workers > 1 and METRICS_PREFIX in os.environ[metrics_folder.FOLDER]:
            shutil.rmtree(os.environ[metrics_folder.FOLDER], ignore_errors=True)


def _metrics_folder() -> str:
    try:
        return os.environ.get(metrics_folder.FOLDER) or tempfile.mkdtemp(prefix=METRICS_PREFIX)
    except OSError as error:
        raise CannotStart(
            f"cannot make a temporary folder for the workers' metrics ({error.strerror}): "
            "set TMPDIR to a folder that this user may write to"
        ) from error


if __name__ == "__main__":
    main()
