"""MkDocs hook: links that leave docs/ become text, because the site holds docs/ alone."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page without links to files outside docs/: each becomes its text and the file's path."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def as_text(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(ROOT / "docs") or not target.exists():
            return link[0]
        path = str(target.relative_to(ROOT))
        return link[1] if path in link[1] else f"{link[1]} (`{path}`)"

    return OUTSIDE.sub(as_text, markdown)
