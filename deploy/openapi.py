"""The OpenAPI document as a file, for generators of clients: docs/openapi.json.

    python -m deploy.openapi        (make openapi)

tests/deploy/test_openapi.py compares it with the code.
"""

import json
from pathlib import Path
from typing import Any

from service.rest.app import create_app

FILE = Path(__file__).parent.parent / "docs/openapi.json"


def text() -> str:
    """The file's content."""
    unused: Any = None  # routes are described, never called
    app = create_app(*[unused] * 8)
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
