"""A program that logs an exception raised in a frame with a secret local variable."""

import structlog

from service.observability import logs


def handle(authorization: str) -> None:
    raise RuntimeError(f"{len(authorization)} characters")


if __name__ == "__main__":
    logs.configure("info")
    try:
        handle("Bearer a-secret" + "-of-the-caller")
    except RuntimeError as error:
        structlog.get_logger().exception("internal_error", exc_info=error)
