"""Load shapes for locust: the number of users over time, one `LoadTestShape` per file.

Pass a file to locust's -f after loadtest/load/locustfile.py; options set the numbers.
"""

from typing import Any

from locust import LoadTestShape


class Shape(LoadTestShape):
    """Base class of the shapes."""

    abstract = True

    @property
    def options(self) -> Any:
        """Options of the command line or the web UI's form."""
        assert self.runner is not None
        return self.runner.environment.parsed_options

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the run."""
        return float(self.get_run_time())  # type: ignore[no-untyped-call]
