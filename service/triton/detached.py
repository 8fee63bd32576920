"""DetachedCall: a request to Triton that runs to completion after its callers disconnect.

Triton can crash when a request is cancelled (docs/decisions/0033-cancelled-calls.md).
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, Protocol, TypeVar

ABANDONED_TIMEOUT = 60.0  # seconds until a request without a caller is cancelled after all

T = TypeVar("T")


class PermitLike(Protocol):
    """The part of service.core.admission.Permit that a request needs.

    bulk: whether others go first.
    """

    @property
    def bulk(self) -> bool: ...

    def hold_until(self, work: asyncio.Future[Any]) -> None:
        """Keep the permit until `work` is done."""


class DetachedCall(Generic[T]):
    """A task that one or more callers wait for. Cancelling a caller does not cancel the task."""

    def __init__(
        self, work: Coroutine[Any, Any, T], abandoned_timeout: float = ABANDONED_TIMEOUT
    ) -> None:
        """Start `work`, which runs from the event loop's next turn on."""
        self.task = asyncio.create_task(work)
        # Nobody may be left who would retrieve it.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self.callers = 0
        self._abandoned_timeout = abandoned_timeout

    async def result(self, permit: PermitLike | None = None) -> T:
        """Wait for the task's result. `permit` is held until the task is done."""
        self.attach(permit)
        try:
            return await asyncio.shield(self.task)
        finally:
            self.detach()

    def attach(self, permit: PermitLike | None = None) -> None:
        """Add a caller, which calls `detach` when it stops waiting."""
        self.callers += 1
        if permit is not None:
            permit.hold_until(self.task)

    def detach(self) -> None:
        """Remove a caller. When the last one goes, the task has `abandoned_timeout` left."""
        self.callers -= 1
        if not self.callers and not self.task.done():
            timer = asyncio.get_running_loop().call_later(self._abandoned_timeout, self.task.cancel)
            self.task.add_done_callback(lambda _: timer.cancel())
