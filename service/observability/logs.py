"""The log: JSON lines on stderr, one object each, whoever writes them: we, uvicorn, grpc or a warning of Python's."""

import logging
import sys
import threading
from types import TracebackType

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor

from service.observability import tracing

_FOR_EVERY_LINE: list[Processor] = [
    structlog.contextvars.merge_contextvars,  # request_id, see calls.py
    tracing.add_trace_id,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso"),
]
_AS_JSON: list[Processor] = [
    # Without the local variables that are structlog's default: they are images, tokens and authorization headers.
    structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ),
    structlog.processors.JSONRenderer(),
]


def configure(level: str) -> None:
    """Write lines of `level` (debug, info, warning or error) and above."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(number),
        processors=[*_FOR_EVERY_LINE, *_AS_JSON],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*_FOR_EVERY_LINE, structlog.stdlib.add_logger_name],
            processors=[ProcessorFormatter.remove_processors_meta, *_AS_JSON],
        )
    )
    # What libraries say below warning is about themselves.
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
