"""The same users for long. Memory is not seen from here: `make soak` reads it."""

from locust import events
from locust.argument_parser import LocustArgumentParser

from loadtest.load.shapes import Shape


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--soak-users", type=int, default=12, env_var="LOCUST_SOAK_USERS", help="users all the time"
    )
    parser.add_argument(
        "--soak-seconds", type=float, default=900.0, env_var="LOCUST_SOAK_SECONDS", help="how long"
    )


class Soak(Shape):
    """A constant number of users."""

    def tick(self) -> tuple[int, float] | None:
        """See LoadTestShape."""
        options = self.options
        return (
            (options.soak_users, options.soak_users)
            if self.elapsed < options.soak_seconds
            else None
        )
