"""Two threads that load and run an engine at the same moment.

The interpreter switches so often that both meet where OpenVINO fills its tables. Without a lock
they waited for each other forever, one time in four.
"""

import sys

import numpy as np
from channeltok import Tokens

from service.engine.in_process import InProcessEngine
from service.settings import EngineSettings

sys.setswitchinterval(1e-6)
engine = InProcessEngine(EngineSettings(), threads=2)
tokens = Tokens(np.arange(256, dtype=np.uint16), engine.tokenizers()[0].fingerprint)
print(len(list(engine.decode_stream([tokens] * 64))))
