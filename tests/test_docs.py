"""The documentation holds together: links, anchors, README's commands, the built site."""

import argparse
import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import yaml
from channeltok import cli
from channeltok.cli import serving
from pydantic_settings import CliApp

from service import in_process
from service.settings import Settings
from tests.support.prometheus import ALERTS
from tests.support.running import ROOT

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
README = ROOT / "README.md"
CHANGELOG = ROOT / "CHANGELOG.md"
INDEX = ROOT / "docs/README.md"


@cache
def pages() -> list[Path]:
    """Every tracked Markdown file, without templates."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [ROOT / name for name in listed.stdout.splitlines()]
    return [
        file for file in files if file.exists() and not re.search("template|card[.]", file.name)
    ]


@cache
def text_of(page: Path) -> str:
    """The page without its blocks of code."""
    without_fenced = FENCED.sub("", page.read_text())
    return re.sub(r"^ {4}.*\n", "", without_fenced, flags=re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """Fragments of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).replace(" ", "-")
        for heading in headings
    }


def links(page: Path) -> list[tuple[Path, str]]:
    """Target file and fragment of every relative link."""
    found = []
    for link in LINK.findall(text_of(page)):
        if not re.match(r"[a-z]+:", link):
            path, _, fragment = link.partition("#")
            found.append(((page.parent / path).resolve() if path else page, fragment))
    return found


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=name)
def test_page_links_lead_to_existing_files_and_headings(page: Path) -> None:
    for target, fragment in links(page):
        assert target.exists(), target
        if fragment:
            assert fragment in anchors(target), f"{name(target)}#{fragment}"


@pytest.mark.parametrize(
    "page", [page for page in pages() if "weights" not in page.parts], ids=name
)
def test_page_lines_have_at_most_100_columns(page: Path) -> None:
    lines = text_of(page).splitlines()
    too_long = [line for line in lines if len(line) > 100 and not re.match(r"\s*\||.*\]\(", line)]
    assert not too_long


def test_index_leads_to_every_page() -> None:
    reached, to_follow = set[Path](), [INDEX]
    while to_follow:
        page = to_follow.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            to_follow += [target for target, _ in links(page)]
    below_docs = {page for page in pages() if page.is_relative_to(ROOT / "docs")}
    assert {name(page) for page in below_docs - reached} == set()


def test_site_builds_renders_lists_and_fetches_nothing(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    html = list(tmp_path.rglob("*.html"))
    assert len(html) > 60
    for page in html:
        fetched = re.findall(
            r"<(?:script|img|iframe)[^>]+src=\"?(?:https?:)?//[^\s>]+"
            r"|<link[^>]+href=\"?(?:https?:)?//[^\s>]+",
            page.read_text(),
        )
        assert not fetched, page
        unread = re.sub(r"<(pre|code).*?</\1>", "", page.read_text(), flags=re.DOTALL)
        lists = re.findall(r"<p>(?:(?!</p>).)*?^(?:- |1\. |\| )", unread, re.DOTALL | re.MULTILINE)
        assert not lists, f"{page}: a list or table was read as text"


def test_readme_has_at_most_900_words() -> None:
    assert len(README.read_text().split()) <= 900


def readme_commands() -> list[str]:
    """Every line of README's blocks of shell commands."""
    blocks = [block for language, block in FENCED.findall(README.read_text()) if language == "sh"]
    return "".join(blocks).splitlines()


def check_make(*targets: str) -> None:
    made = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, check=False)
    assert made.returncode == 0


def check_pip(install: str, *arguments: str) -> None:
    assert install == "install"
    (extras,) = re.findall(r"\.\[([\w,]+)\]", " ".join(arguments))
    with (ROOT / "pyproject.toml").open("rb") as file:
        known = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)


def run_by_the_system_tests(*_: str) -> None:
    """tests/system/test_readme.py runs it against a real service."""


CHECKS = {
    "make": check_make,
    ".venv/bin/pip": check_pip,
    ".venv/bin/channeltok": run_by_the_system_tests,
    ".venv/bin/python": run_by_the_system_tests,
    "curl": run_by_the_system_tests,
}


@pytest.mark.parametrize("command", readme_commands())
def test_readme_commands_are_checked(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program in CHECKS, "no test runs it"
    CHECKS[program](*arguments)


def documented_commands() -> list[str]:
    """Arguments of `channeltok` in every line of a block of shell commands."""
    blocks = "".join(
        block
        for page in pages()
        for language, block in FENCED.findall(page.read_text())
        if language == "sh"
    )
    return re.findall(r"^(?:\S+=\S+ |\.venv/bin/)*channeltok (.+)$", blocks, re.MULTILINE)


@pytest.mark.parametrize("arguments", documented_commands())
def test_documented_commands_parse(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
        parser.parse_args(words)
        return 0

    for module in (cli, in_process):
        monkeypatch.setattr(module, "run_command", only_parse)
    monkeypatch.setattr(serving, "serve", lambda words: CliApp.run(Settings, words))
    monkeypatch.setattr(serving, "run_in_process", in_process.main)
    assert cli.main(shlex.split(arguments)) == 0


def python_snippets() -> list[str]:
    """Every block of Python on the pages."""
    blocks = [block for page in pages() for block in FENCED.findall(page.read_text())]
    return [block for language, block in blocks if language == "python"]


@pytest.mark.parametrize("snippet", python_snippets())
def test_python_snippets_parse_and_import_existing_names(snippet: str) -> None:
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", [page for page in pages() if page != CHANGELOG], ids=name)
def test_pages_name_existing_settings(page: Path) -> None:
    elsewhere = r"BEARER_TOKEN|SERVER|BIND|GRAFANA_PORT|PHOTOS|TRAIN_\w*"
    named = re.findall(rf"CHANNELTOK_(?!(?:{elsewhere})\b)(\w+)", page.read_text())
    assert {setting.lower() for setting in named} <= set(Settings.model_fields)


def test_runbook_queries_use_labels_that_the_metrics_have() -> None:
    rows = re.findall(
        r"^\| `(channeltok_\w+)`[^|]*\|[^|]*\|([^|]*)\|",
        (ROOT / "docs/metrics.md").read_text(),
        re.MULTILINE,
    )
    labels = {metric: set(re.findall(r"\w+", cell)) for metric, cell in rows}
    for page in (ROOT / "docs/runbook").glob("*.md"):
        for metric, selectors in re.findall(r"(channeltok_\w+)\{([^}]+)\}", page.read_text()):
            used = set(re.findall(r"(\w+)\s*[=!]", selectors))
            base = re.sub(r"_(total|count|sum|bucket)$", "", metric)
            assert used <= labels[base], f"{page.name}: {metric}{{{selectors}}}"


def test_runbook_names_panels_and_rows_that_the_dashboard_has() -> None:
    dashboard = ROOT / "deploy/grafana/provisioning/dashboards/channeltok.json"
    titles = set(re.findall(r'"title": "([^"]+)"', dashboard.read_text()))
    for page in (ROOT / "docs/runbook").glob("*.md"):
        named = re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", text_of(page))
        assert set(named) <= titles, page.name


def test_runbook_index_says_what_the_alerts_say() -> None:
    index = (ROOT / "docs/runbook/README.md").read_text()
    for alert, rule in ALERTS.items():
        severity, summary = rule["labels"]["severity"], rule["annotations"]["summary"]
        assert f"| [{alert}]({alert}.md) | {severity} | {summary} |" in index


def test_pre_commit_runs_commands_that_make_check_runs() -> None:
    recipe = re.findall(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[
        0
    ].replace("$(BIN)/", ".venv/bin/")
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in local["hooks"]:
        assert hook["entry"] in recipe


def test_changelog_names_existing_settings_and_metrics() -> None:
    text = CHANGELOG.read_text()
    settings = re.findall(r"^\| setting \| `\w+` \| `(\w+)` \|", text, re.MULTILINE)
    metrics = re.findall(r"^\| metric \| `[^`]+` \| `(\w+?)(?:_total)?[`{]", text, re.MULTILINE)
    assert settings
    assert metrics
    assert set(settings) <= set(Settings.model_fields)
    known = (ROOT / "docs/metrics.md").read_text()
    assert not [metric for metric in metrics if f"`{metric}`" not in known]


@pytest.mark.parametrize("page", [page for page in pages() if page != CHANGELOG], ids=name)
def test_pages_run_existing_modules(page: Path) -> None:
    for module in re.findall(r"python -m ([a-z_][\w.]*\w)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        ours = (ROOT / module.partition(".")[0]).is_dir()
        assert not ours or path.with_suffix(".py").exists() or (path / "__main__.py").exists(), (
            module
        )


@pytest.mark.parametrize("page", [ROOT / "docs/guarantees.md", ROOT / "CONTRIBUTING.md"], ids=name)
def test_pages_name_existing_paths(page: Path) -> None:
    paths = re.findall(r"`((?:\.?[\w-]+/)+[\w.-]*)`", page.read_text())
    paths = [path for path in paths if not path.startswith((".venv", "build/", "runs/"))]
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]
