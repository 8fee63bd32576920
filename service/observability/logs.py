"""Logging setup: JSON lines on stderr from our code, uvicorn, grpc and Python's warnings."""

import logging
import sys
import threading
from types import TracebackType

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor

from service.observability import tracing
from service.observability.log_limits import LogLimit, drop_undecodable_metadata

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,  # request_id, see request_context.py
    tracing.add_trace_id,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso"),
]
_AS_JSON: list[Processor] = [
    # Without local variables (structlog's default): they hold images and authorization headers.
    structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ),
    structlog.processors.JSONRenderer(),
]


def configure(level: str) -> None:
    """Log at `level` (debug, info, warning or error) and above."""
    number = logging.getLevelNamesMapping()[level.upper()]
    limit = LogLimit()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(number),
        processors=[limit, *_SHARED, *_AS_JSON],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name],
            processors=[ProcessorFormatter.remove_processors_meta, *_AS_JSON],
        )
    )
    handler.addFilter(limit)
    logging.getLogger("grpc._cython.cygrpc").addFilter(drop_undecodable_metadata)
    # Below warning, libraries only talk about themselves.
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
    logging.captureWarnings(True)
    sys.excepthook = _on_crash
    threading.excepthook = _on_thread_crash


def _on_crash(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    structlog.get_logger().critical("crashed", exc_info=error)


def _on_thread_crash(crash: threading.ExceptHookArgs) -> None:
    structlog.get_logger().error(
        "thread_crashed", thread=crash.thread and crash.thread.name, exc_info=crash.exc_value
    )
