"""Ramp: add users step by step until throughput stops growing (the knee)."""

import logging

from locust import events
from locust.argument_parser import LocustArgumentParser

from loadtest.load.shapes import Shape

MIN_GROWTH = 1.05  # a step below this factor of the best rate before it is beyond the knee


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--step-users",
        type=int,
        default=4,
        env_var="LOCUST_STEP_USERS",
        help="users added per step",
    )
    parser.add_argument(
        "--step-seconds",
        type=float,
        default=20.0,
        env_var="LOCUST_STEP_SECONDS",
        help="length of a step",
    )
    parser.add_argument(
        "--most-users",
        type=int,
        default=128,
        env_var="LOCUST_MOST_USERS",
        help="end here, even before the knee",
    )


class Ramp(Shape):
    """Ends after two steps in a row whose rate hardly exceeds the best before; logs every step."""

    def reset_time(self) -> None:
        """Start a new run."""
        super().reset_time()  # type: ignore[no-untyped-call]
        self._step, self._best, self._beyond = 1, 0.0, 0
        self._step_start, self._succeeded = 0.0, 0

    def tick(self) -> tuple[int, float] | None:
        """(users, spawn rate), or None to end: see LoadTestShape."""
        options, now = self.options, self.elapsed
        if now - self._step_start >= options.step_seconds and self._step_ends(
            now, options.step_users
        ):
            return None
        users = self._step * options.step_users
        return (users, users) if users <= options.most_users else None

    def _step_ends(self, now: float, step_users: int) -> bool:
        """Log the finished step; returns whether the ramp ends with it."""
        assert self.runner is not None
        total = self.runner.stats.total
        succeeded = total.num_requests - total.num_failures
        rate = (succeeded - self._succeeded) / (now - self._step_start)
        users = self._step * step_users
        logging.getLogger(__name__).info("%d users: %.1f successful calls/s", users, rate)
        self._beyond = 0 if rate > MIN_GROWTH * self._best else self._beyond + 1
        self._best = max(self._best, rate)
        self._step, self._step_start, self._succeeded = self._step + 1, now, succeeded
        return self._beyond == 2
