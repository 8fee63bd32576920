"""How many users at which time: one `LoadTestShape` a file, for locust's -f beside loadtest/load/locustfile.py. Options set the numbers."""

from typing import Any

from locust import LoadTestShape


class Shape(LoadTestShape):
    """What all have."""

    abstract = True

    @property
    def options(self) -> Any:
        """Of the command line, or of the web UI's form."""
        assert self.runner is not None
        return self.runner.environment.parsed_options

    @property
    def elapsed(self) -> float:
        """Seconds."""
        return float(self.get_run_time())  # type: ignore[no-untyped-call]
