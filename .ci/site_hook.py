"""MkDocs hook: bring Markdown as GitHub reads it into the form that MkDocs reads."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")
LIST_AFTER_TEXT = re.compile(r"^(?![\s|#>`]|[-*] |\d+\. )(.+)\n(?=(?:- |1\. ))", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files outside docs/ become text; a list right after text gets its empty line."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def as_text(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(ROOT / "docs") or not target.exists():
            return link[0]
        path = str(target.relative_to(ROOT))
        return link[1] if path in link[1] else f"{link[1]} (`{path}`)"

    return LIST_AFTER_TEXT.sub(r"\1\n\n", OUTSIDE.sub(as_text, markdown))
