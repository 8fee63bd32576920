"""A part of a report that takes too long and hides the exception that interrupts it."""

import sys
import time
from pathlib import Path

from export.acceptance.bare.sections import Sections
from export.acceptance.report import Report


def compile_forever() -> None:
    try:
        while True:
            time.sleep(0.01)
    except TimeoutError as error:
        raise RuntimeError("the compiler failed") from error


sections = Sections(Report(), Path(sys.argv[1]), 60)
assert not sections.attempt("compiled", compile_forever, 0.05)
assert sections.failed == []
print(*sections.skipped)
