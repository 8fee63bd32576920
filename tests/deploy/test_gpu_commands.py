"""Documented commands for GPU hosts exist, with their options; commands without a check fail."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from export import __main__ as export
from export.triton import tensorrt_plans
from tests.support.compose import COMPOSE, GPU

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/gpu.md"
PROFILES = {
    profile for service in COMPOSE["services"].values() for profile in service.get("profiles", [])
}
COMPOSE_OPTIONS = {
    "up": {"-d", "--detach", "--build", "--wait"},
    "run": {"--rm"},
    "down": {"-v", "--volumes"},
    "logs": {"-f", "--follow"},
}
PLANS_FOLDERS = {"build": ["GRAPHS", "MODELS"], "check": ["MODELS"]}


def commands(markdown: str) -> Iterator[str]:
    """Commands of a page: lines of code blocks, without comments, and inline code.

    Of a line of output that recommends a command, only that command.
    """
    fenced = r"^```.*?\n(.*?)^```"
    blocks = "".join(re.findall(fenced, markdown, re.DOTALL | re.MULTILINE))
    rest = re.sub(fenced, "", markdown, flags=re.DOTALL | re.MULTILINE)
    blocks += "".join(line.strip() + "\n" for line in re.findall(r"^ {4}.*\n", rest, re.MULTILINE))
    for line in filter(None, blocks.splitlines()):
        recommended = re.search(rf": ((?:{'|'.join(map(re.escape, CHECKS))}) .*)", line)
        yield re.sub(r"\s+# .*", "", recommended[1] if recommended else line)
    for code in re.findall(r"`([^`]+)`", re.sub(r"^ {4}.*\n", "", rest, flags=re.MULTILINE)):
        if " " in code or code in CHECKS:
            yield code


def check(command: str) -> None:
    """Raises AssertionError or SystemExit unless the command can be run as it stands."""
    assert subprocess.run(["bash", "-n"], input=command, text=True, check=False).returncode == 0
    program, *arguments = shlex.split(command)
    assert program in CHECKS, f"no check for {program}"
    CHECKS[program](arguments)


def check_make(arguments: list[str]) -> None:
    assert arguments, "no target"
    dry_run = subprocess.run(
        ["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert dry_run.returncode == 0, dry_run.stderr


def check_python(arguments: list[str]) -> None:
    dash_m, module, *options = arguments
    assert dash_m == "-m"
    if module == "export":
        export.parse(options)
        return
    help_of = (
        [options[0], "--help"] if module == "tokenizer.parts" else ["--help"]
    )  # it has commands of its own
    shown = subprocess.run(
        [sys.executable, "-m", module, *help_of],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert {option for option in options if option.startswith("-")} <= set(
        re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown.stdout)
    )


def check_plans(arguments: list[str]) -> None:
    action, *folders = arguments
    folders = folders or PLANS_FOLDERS[action]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorrt_plans, "detect_server", _refuse)
        with pytest.raises(SystemExit, match="no GPU here"):
            tensorrt_plans.main([action, *folders])


def check_compose(arguments: list[str]) -> None:
    compose, *words = arguments
    assert compose == "compose"
    while words[0] == "--profile":
        assert words[1] in PROFILES, f"no service has the profile {words[1]}"
        del words[:2]
    subcommand, *words = words
    assert subcommand in COMPOSE_OPTIONS, f"no check for docker compose {subcommand}"
    options = {word for word in words if word.startswith("-")}
    assert options <= COMPOSE_OPTIONS[subcommand]
    assert set(words) - options <= set(GPU)
    assert subcommand != "run" or set(words) - options, "no service to run"


def check_export(arguments: list[str]) -> None:
    name, files = arguments[0].split("=")
    assert name == "COMPOSE_FILE"
    assert all((ROOT / file).exists() for file in files.split(":"))


def check_kubectl(arguments: list[str]) -> None:
    apply, dash_k, folder = arguments
    assert (apply, dash_k) == ("apply", "-k")
    assert (
        ROOT / folder / "kustomization.yaml"
    ).exists()  # tests/deploy/test_kubernetes.py looks into it


def check_host_script(arguments: list[str]) -> None:
    command, folder = arguments
    assert folder.isupper(), "a placeholder for a folder"
    script = ROOT / "deploy/gpu/host.sh"
    environment = {**os.environ, "PYTHON": sys.executable, "GPU_PACK": "no-such-pack"}
    shown = subprocess.run(
        [script, command, folder, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert shown.returncode == 0, shown.stderr
    (branch,) = re.findall(rf"^{command}\)\n(.*?);;", script.read_text(), re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", branch)) - {"--bare"} <= set(
        re.findall(r"--[a-z-]+", shown.stdout)
    )


def check_list(arguments: list[str]) -> None:
    assert all(not argument.startswith("-") for argument in arguments)


def _refuse() -> tensorrt_plans.Server:
    raise tensorrt_plans.PlanError("no GPU here")


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "docker": check_compose,
    "deploy/gpu/host.sh": check_host_script,
    "export": check_export,
    "kubectl": check_kubectl,
    "ls": check_list,
    "make": check_make,
    "python": check_python,
    "plans.py": check_plans,
    "export/triton/tensorrt_plans.py": check_plans,
}
(PARAGRAPH,) = re.findall(
    r"^\*\*On a GPU\.\*\*.*?\n\n", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize(
    "command", dict.fromkeys([*commands(GUIDE.read_text()), *commands(PARAGRAPH)])
)
def test_documented_command_runs(command: str) -> None:
    check(command)


def test_commands_finds_blocks_and_inline_code() -> None:
    text = """
Run `make test`, see `model.plan` and `nvidia-smi -L`:

    docker compose up     # on a GPU host
    it failed. Rebuild it: docker compose run --rm engines

```sh
python -m export gpu
trtexec --help
```
"""
    assert set(commands(text)) == {
        "make test",
        "nvidia-smi -L",
        "docker compose up",
        "docker compose run --rm engines",
        "python -m export gpu",
        "trtexec --help",
    }


@pytest.mark.parametrize(
    "command",
    [
        "nvidia-smi -L",
        "make no-such-target",
        "make",
        "docker run hello-world",
        "docker compose up nobody",
        "docker compose up --no-such-option",
        "docker compose --profile nobody up",
        "docker compose run --rm",
        "docker compose prune",
        "export COMPOSE_FILE=docker-compose.yml:no-such-file.yml",
        "export OTHER=docker-compose.yml",
        "kubectl apply -k deploy/nowhere",
        "kubectl delete -k deploy/kubernetes/base",
        "python -m export",
        "python -m export gpu --data PHOTOS --engine cuda",
        "python -m export gpu --data PHOTOS --no-such-option",
        "python -m export.triton.tensorrt_plans --no-such-option",
        "python -m export.nothing",
        "plans.py destroy MODELS",
        "plans.py check MODELS AND MORE",
        "make 'test",
    ],
)
def test_check_rejects_a_wrong_command(command: str) -> None:
    with pytest.raises((AssertionError, SystemExit, KeyError)):
        check(command)


def test_guide_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)", GUIDE.read_text())
    assert links
    for link in links:
        assert link.startswith("https://") or (GUIDE.parent / link).exists(), link
