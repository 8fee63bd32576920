"""What `python -m service` sets for gRPC's core library, before it is imported."""

import os
import subprocess
import sys

import pytest

PROGRAM = "import service.__main__, grpc; grpc.insecure_channel('127.0.0.1:1').close()"


@pytest.mark.parametrize(("experiments", "unknown"), [(None, False), ("-no_such_thing", True)])
def test_grpc_knows_the_experiments_that_the_service_turns_off(
    experiments: str | None, unknown: bool
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    environment["GRPC_VERBOSITY"] = "ERROR"
    if experiments is not None:
        environment["GRPC_EXPERIMENTS"] = experiments
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert ("Unknown experiment" in run.stderr) is unknown
