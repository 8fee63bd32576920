"""`python -m service`: one gateway process, or several with --workers."""

import os
import shutil
import sys
import tempfile

import uvloop
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from service import gateway, workers
from service.errors import CannotContinue, CannotStart
from service.observability import logs, metrics, output, tracing
from service.security.tls import grpc_environment
from service.settings import Settings

METRICS_PREFIX = "channeltok-metrics-"  # of metrics folders made here, not by an operator


def main() -> None:
    try:
        settings = CliApp.run(Settings)
    except (ValidationError, SettingsError) as error:
        sys.exit(f"channeltok service: {error}")
    # Libraries have read some of the environment when they were imported: start again with more.
    missing = grpc_environment(settings).items() - os.environ.items()
    if settings.workers > 1 and metrics.MULTIPROC_DIR not in os.environ:
        missing.add((metrics.MULTIPROC_DIR, tempfile.mkdtemp(prefix=METRICS_PREFIX)))
    if missing:
        os.environ.update(missing)
        os.execv(sys.executable, [sys.executable, "-m", "service", *sys.argv[1:]])
    output.take_over()
    logs.configure(settings.log_level)
    try:
        tracing.start()
        uvloop.run(gateway.serve(settings) if settings.workers == 1 else workers.serve(settings))
    except (CannotStart, CannotContinue, tracing.UnsupportedProtocol) as error:
        sys.exit(f"channeltok service: {error}")
    finally:
        if settings.workers > 1 and METRICS_PREFIX in os.environ[metrics.MULTIPROC_DIR]:
            shutil.rmtree(os.environ[metrics.MULTIPROC_DIR], ignore_errors=True)


if __name__ == "__main__":
    main()
