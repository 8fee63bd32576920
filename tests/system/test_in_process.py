"""Engines in this process, of several threads."""

import subprocess
import sys

from tests.support.running import ROOT

# So short a turn that threads meet where OpenVINO fills its tables: one time in four they then waited for each other for ever.
TWO_THREADS_BEGIN = """
import sys
sys.setswitchinterval(1e-6)
from pathlib import Path
import numpy as np
from channeltok import Tokens
from service.engine.in_process import LocalEngine

engine = LocalEngine(Path("model_repository"), threads=2)
tokens = Tokens(np.arange(256, dtype=np.uint16), engine.tokenizers()[0].fingerprint)
print(len(list(engine.decode_stream([tokens] * 64))))
"""


def test_threads_that_begin_at_once_do_not_wait_for_each_other() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_THREADS_BEGIN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "64\n"
