from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from service import machine
from service.security.bearer_tokens import BearerTokens
from service.security.secret_files import warn_of_other_users
from service.security.tls import Tls
from tests.support.certificates import issue, write_ca


@pytest.fixture
def on_a_shared_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the tests never ran in a container."""
    monkeypatch.setattr(machine, "in_container", lambda: False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that every user can pass."""
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_mode & 0o777 == 0o700:  # what pytest has made
            above.chmod(0o755)
    return tmp_path


def warned(file: Path, *, secret: bool = True) -> str:
    with capture_logs() as log:
        warn_of_other_users(file, secret=secret)
    assert len(log) <= 1
    assert all(line["event"] == "file_open_to_other_users" for line in log)
    return " ".join(str(line["why"]) for line in log)


@pytest.mark.parametrize(
    ("mode", "secret", "why"),
    [
        (0o600, True, ""),
        (0o640, True, ""),  # a service reads a file of root by its group
        (0o660, True, ""),
        (0o644, True, "can read it"),
        (0o444, True, "can read it"),
        (0o666, True, "can read and change it"),
        (0o602, True, "can change it"),
        (0o644, False, ""),
        (0o646, False, "can change it"),
    ],
)
@pytest.mark.usefixtures("on_a_shared_machine")
def test_warn_of_other_users_names_what_they_can_do(
    folder: Path, mode: int, secret: bool, why: str
) -> None:
    (file := folder / "tokens").write_text("")
    file.chmod(mode)
    assert (why in warned(file, secret=secret)) if why else (not warned(file, secret=secret))


@pytest.mark.usefixtures("on_a_shared_machine")
def test_warn_of_other_users_is_silent_in_a_folder_that_they_cannot_pass(folder: Path) -> None:
    (closed := folder / "closed").mkdir(0o700)
    (file := closed / "tokens").write_text("")
    file.chmod(0o644)
    assert not warned(file)
    (link := folder / "link").symlink_to(file)
    assert not warned(link)
    closed.chmod(0o711)
    assert warned(file)


@pytest.mark.usefixtures("on_a_shared_machine")
def test_service_warns_of_its_key_and_tokens_and_not_of_its_certificates(folder: Path) -> None:
    ca = trustme.CA()
    files, client_ca = issue(ca, folder, "server"), write_ca(ca, folder, "ca")
    (tokens := folder / "tokens").write_text("0123456789abcdef")
    for file in folder.iterdir():
        file.chmod(0o644)
    with capture_logs() as log:
        Tls(files.certificate, files.key, client_ca)
        BearerTokens(tokens)
    assert [line["file"] for line in log] == [str(files.key), str(tokens)]


def test_warn_of_other_users_is_silent_in_a_container(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := folder / "tokens").write_text("")
    file.chmod(0o644)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert not warned(file)
