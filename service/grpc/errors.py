"""Errors as gRPC tells them: a google.rpc.Status with the code of service/errors.py."""

from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from service.errors import ServiceError
from service.observability.request_context import current_request_id

log = structlog.get_logger()


async def abort(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    """End a call with this error, the Status in its trailing metadata."""
    status = rpc_status.to_status(status_of(error))
    # abort_with_status would drop what is there already: the request id.
    await context.abort(
        status.code, status.details, (*context.trailing_metadata(), *status.trailing_metadata)
    )
    raise AssertionError("abort always raises")


def status_of(error: Exception) -> Any:
    """google.rpc.Status of an error. What we did not foresee is logged here and becomes INTERNAL without a word of it."""
    if not isinstance(error, ServiceError):
        log.exception("internal_error", exc_info=error)
        error = ServiceError(
            f"an error of ours; it was logged under request id {current_request_id()}"
        )
    status = status_pb2.Status(code=error.grpc.value[0], message=error.detail)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.code, domain="channeltok"))
    if error.retry_after is not None:
        retry = Duration()
        retry.FromMilliseconds(int(error.retry_after * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=retry))
    return status
