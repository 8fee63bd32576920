"""Triton python backend that never finishes loading."""

import time


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        time.sleep(3600)
