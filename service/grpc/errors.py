"""Errors as gRPC statuses: a google.rpc.Status with the code and retry time of a ServiceError."""

from typing import Any, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from service.errors import to_service_error


async def abort(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    """End a call with this error; its Status goes into the trailing metadata."""
    status = rpc_status.to_status(to_status(error))
    # abort_with_status would drop the request id, which is in the metadata already.
    await context.abort(
        status.code, status.details, (*context.trailing_metadata(), *status.trailing_metadata)
    )
    raise AssertionError("abort always raises")


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
