"""BrowserPolicy: which pages may call, from what browsers say about them."""

import pytest

from service.errors import Forbidden
from service.security.browsers import BrowserPolicy
from service.settings import Settings

LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def allows(policy: BrowserPolicy, method: str = "POST", **headers: str) -> bool:
    """headers: with _ for -."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        policy.check(method, fields)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LocalHost.:8080",
        "tok.localhost",
        "127.0.0.1:8080",
        "127.8.9.1",
        "[::1]:8080",
        "[::1]",
        "192.168.1.5:8080",
    ],
)
def test_browser_policy_takes_localhost_and_addresses(host: str) -> None:
    assert allows(BrowserPolicy.of(Settings()), host=host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "notlocalhost", ""],
)
def test_browser_policy_refuses_other_names_on_loopback(host: str) -> None:
    assert not allows(BrowserPolicy.of(Settings()), host=host)
    assert allows(BrowserPolicy.of(Settings(host="0.0.0.0")), host=host)
    settings = Settings.model_validate({"host": "0.0.0.0", "allowed_hosts": "mine"})
    assert not allows(BrowserPolicy.of(settings), host=host)


def test_browser_policy_takes_the_names_that_are_set() -> None:
    policy = BrowserPolicy((), ("tok.example", "*.tokens.example"))
    for host in ("TOK.example:80", "a.tokens.example", "a.b.tokens.example", "localhost"):
        assert allows(policy, host=host)
    for host in ("a.tok.example", "tokens.example", "eviltokens.example"):
        assert not allows(policy, host=host)
    assert allows(BrowserPolicy((), ("*",)), host="any.example")


def test_browser_policy_takes_callers_that_are_no_browsers() -> None:
    policy = BrowserPolicy.of(Settings())
    assert allows(policy)  # HTTP/1.0 needs no Host
    assert allows(policy, host="localhost:8080")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "same-origin", "origin": "https://tok.example"},  # behind a proxy
        {"sec_fetch_site": "none"},
        {"origin": "http://localhost:8080"},
        {"origin": "HTTPS://LOCALHOST:8080"},
    ],
)
def test_browser_policy_takes_pages_of_its_own(headers: dict[str, str]) -> None:
    assert allows(BrowserPolicy.of(Settings()), host="localhost:8080", **headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": "http://localhost:3000"},
        {"sec_fetch_site": "cross-site", "origin": "http://localhost:8080"},
        {"sec_fetch_site": "rubbish"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_browser_policy_refuses_pages_of_others(headers: dict[str, str], method: str) -> None:
    assert not allows(BrowserPolicy.of(Settings()), method, host="localhost:8080", **headers)


def test_browser_policy_takes_links_but_no_forms_and_frames() -> None:
    policy = BrowserPolicy.of(Settings())
    link = {name.replace("-", "_"): value for name, value in LINK.items()}
    assert allows(policy, "GET", **link)
    assert not allows(policy, "POST", **link)
    assert not allows(policy, "GET", **{**link, "sec_fetch_dest": "iframe"})


def test_browser_policy_takes_the_origins_that_are_set() -> None:
    settings = Settings(allowed_origins="https://app.example, http://localhost:3000")  # type: ignore[arg-type]
    policy = BrowserPolicy.of(settings)
    assert allows(policy, origin="https://app.example", sec_fetch_site="cross-site")
    assert allows(policy, origin="http://localhost:3000", sec_fetch_site="same-site")
    assert not allows(policy, origin="http://app.example", sec_fetch_site="cross-site")
    assert not allows(policy, origin="https://app.example.evil.example")
    assert allows(BrowserPolicy(("*",), ()), origin="null", sec_fetch_site="cross-site")
