"""A crowd that comes at once and goes again. Afterwards all should be as before."""

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
        "--peak-users", type=int, default=64, env_var="LOCUST_PEAK_USERS", help="users in the spike"
    )
    parser.add_argument(
        "--hold-seconds",
        type=float,
        default=30.0,
        env_var="LOCUST_HOLD_SECONDS",
        help="before, in and after the spike, each",
    )


class Spike(Shape):
    """Base, peak, base."""

    def tick(self) -> tuple[int, float] | None:
        """See LoadTestShape."""
        options = self.options
        phase = int(self.elapsed / options.hold_seconds)
        users = (options.base_users, options.peak_users, options.base_users, 0)[min(phase, 3)]
        return (users, options.peak_users) if users else None  # all of them within a second
