"""Imports modules while other top-level modules are hidden: HIDDEN,... MODULE,..."""

import importlib
import importlib.abc
import sys
from typing import Any

hidden, modules = (set(argument.split(",")) for argument in sys.argv[1:])


class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in hidden or name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hide())
for module in sorted(modules):
    importlib.import_module(module)
