"""Soak: a constant number of users for a long time. `make soak` also measures memory."""

from locust import events
from locust.argument_parser import LocustArgumentParser

from loadtest.load.shapes import Shape


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--soak-users", type=int, default=12, env_var="LOCUST_SOAK_USERS", help="number of users"
    )
    parser.add_argument(
        "--soak-seconds", type=float, default=900.0, env_var="LOCUST_SOAK_SECONDS", help="duration"
    )


class Soak(Shape):
    """A constant number of users."""

    def tick(self) -> tuple[int, float] | None:
        """(users, spawn rate), or None to end: see LoadTestShape."""
        options = self.options
        if self.elapsed >= options.soak_seconds:
            return None
        return (options.soak_users, options.soak_users)
