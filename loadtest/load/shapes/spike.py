"""Spike: many users arrive at once and leave again; afterwards all should be as before."""

from locust import events
from locust.argument_parser import LocustArgumentParser

from loadtest.load.shapes import Shape


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--base-users",
        type=int,
        default=4,
        env_var="LOCUST_BASE_USERS",
        help="users before and after the spike",
    )
    parser.add_argument(
        "--peak-users",
        type=int,
        default=64,
        env_var="LOCUST_PEAK_USERS",
        help="users during the spike",
    )
    parser.add_argument(
        "--hold-seconds",
        type=float,
        default=30.0,
        env_var="LOCUST_HOLD_SECONDS",
        help="duration of each phase: before, during and after the spike",
    )


class Spike(Shape):
    """Base, peak, base: three phases of equal length."""

    def tick(self) -> tuple[int, float] | None:
        """(users, spawn rate), or None to end: see LoadTestShape."""
        options = self.options
        phase = int(self.elapsed / options.hold_seconds)
        users = (options.base_users, options.peak_users, options.base_users, 0)[min(phase, 3)]
        return (users, options.peak_users) if users else None  # all of them within a second
