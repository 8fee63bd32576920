"""More users step by step until more carry no more: the knee."""

import logging

from locust import events
from locust.argument_parser import LocustArgumentParser

from loadtest.load.shapes import Shape

STILL_GROWING = (
    1.05  # a step that carries less than this times the best before it is beyond the knee
)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--step-users",
        type=int,
        default=4,
        env_var="LOCUST_STEP_USERS",
        help="users that each step adds",
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
        help="ends here, knee or not",
    )


class Ramp(Shape):
    """Ends after two steps in a row that carried hardly more good answers/s than the best before them, and logs every step."""

    def reset_time(self) -> None:
        """A new run."""
        super().reset_time()  # type: ignore[no-untyped-call]
        self._step, self._best, self._beyond = 1, 0.0, 0
        self._began, self._answered = 0.0, 0

    def tick(self) -> tuple[int, float] | None:
        """See LoadTestShape."""
        options, now = self.options, self.elapsed
        if now - self._began >= options.step_seconds and self._step_ends(now, options.step_users):
            return None
        users = self._step * options.step_users
        return (users, users) if users <= options.most_users else None

    def _step_ends(self, now: float, step_users: int) -> bool:
        """Whether the ramp ends too."""
        assert self.runner is not None
        total = self.runner.stats.total
        answered = total.num_requests - total.num_failures
        rate = (answered - self._answered) / (now - self._began)
        logging.getLogger(__name__).info(
            "%d users: %.1f good answers/s", self._step * step_users, rate
        )
        self._beyond = 0 if rate > STILL_GROWING * self._best else self._beyond + 1
        self._best = max(self._best, rate)
        self._step, self._began, self._answered = self._step + 1, now, answered
        return self._beyond == 2
