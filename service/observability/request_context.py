"""Request id, caller's trace, access log and deadline check of a request, for both protocols.

Every log line written during a request carries its request id, and the caller gets the id back as
`x-request-id`.
"""

import random
import re
import time
from collections.abc import Mapping

import structlog

from service.observability import tracing

log = structlog.get_logger()
REQUEST_ID = "x-request-id"
# Ids that no log or shell misreads: UUIDs, ULIDs, trace ids and the like.
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def begin_request(headers: Mapping[str, str]) -> str:
    """Bind request id and trace context to the current task; return the id.

    headers: with lower-case names. An id that is missing or unsafe is replaced by a new one.
    """
    request_id = headers.get(REQUEST_ID, "")
    if not _SAFE_ID.fullmatch(request_id):
        # Not secret, so the cheap generator suffices.
        request_id = f"{random.getrandbits(128):032x}"
    structlog.contextvars.bind_contextvars(request_id=request_id)
    tracing.attach_parent(headers)
    return request_id


def log_access(protocol: str, call: str, code: str | int, started: float) -> None:
    """Write the access line (level debug). started: seconds of time.perf_counter."""
    log.debug(
        "access",
        protocol=protocol,
        call=call,
        code=code,
        seconds=round(time.perf_counter() - started, 6),
    )


def deadline_passed(seconds: float, timeout: float | None) -> bool:
    """Whether a call cancelled after `seconds` was cancelled because of its deadline.

    gRPC cancels a call at its deadline before we can. Callers send deadlines with three digits,
    rounded up, so a caller's own deadline passes up to 1 % before the one that we know. It passes
    earlier by as long as the call's headers waited to be read, too: tens of milliseconds where
    several calls begin at once on a busy machine.
    """
    if timeout is None:
        return False
    headers_waited = min(max(0.01, 0.04 * timeout), 0.05)
    return seconds >= 0.99 * timeout - headers_waited
