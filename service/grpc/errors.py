"""Errors as gRPC statuses: a google.rpc.Status with the code and retry time of a ServiceError."""

from typing import Any, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from service.errors import ServiceError, to_service_error

PUSHBACK = "grpc-retry-pushback-ms"
NEVER = "-1"


async def abort(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    """End a call with this error; its Status goes into the trailing metadata.

    So does when gRPC's own retry policy may repeat the call, for clients that have one.
    """
    known = to_service_error(error)
    status = rpc_status.to_status(to_status(known))
    pushback = (PUSHBACK, _pushback(known, context.time_remaining()))
    # abort_with_status would drop the request id, which is in the metadata already.
    metadata = (*context.trailing_metadata(), *status.trailing_metadata, pushback)
    await context.abort(status.code, status.details, metadata)
    raise AssertionError("abort always raises")


def _pushback(error: ServiceError, time_left: float | None) -> str:
    """Milliseconds until a retry, or NEVER. time_left: seconds to the caller's deadline."""
    seconds = error.retry_after
    # A client would wait for its deadline, and then report that instead of this error.
    if seconds is None or (time_left is not None and seconds >= time_left):
        return NEVER
    return str(int(seconds * 1000))


def to_status(error: Exception) -> Any:
    """google.rpc.Status of an error."""
    error = to_service_error(error)
    status = status_pb2.Status(code=error.grpc.value[0], message=error.detail)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.code, domain="channeltok"))
    if error.retry_after is not None:
        retry = Duration()
        retry.FromMilliseconds(int(error.retry_after * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=retry))
    return status
