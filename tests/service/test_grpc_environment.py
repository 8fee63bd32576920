"""What `python -m service` sets for gRPC's core library, before it is imported."""

import json
import os
import subprocess
import sys

import pytest
from channeltok import cli

VARIABLES = ("GRPC_ENABLE_FORK_SUPPORT", "GRPC_VERBOSITY", "GRPC_EXPERIMENTS")
PROGRAM = "import service.__main__, grpc; grpc.insecure_channel('127.0.0.1:1').close()"
PRINT_VARIABLES = (
    f"import json, os, service.__main__; print(json.dumps([os.environ[n] for n in {VARIABLES}]))"
)


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


def test_channeltok_serve_sets_what_the_service_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below `channeltok` gRPC is imported before the service could set anything."""

    def execv(path: str, command: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # put back at the end, whether it was there or not
        monkeypatch.delenv(name)
    of_service = json.loads(subprocess.check_output([sys.executable, "-c", PRINT_VARIABLES]))
    assert cli.main(["serve"]) == 130
    assert [os.environ[name] for name in VARIABLES] == of_service
