"""Real Chromium: pages of strangers do not reach the engine, our own and allowed pages do."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.chromium import CHROMIUM, Pages, console, shown
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import Service, running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")

# Everything that a page can send without being asked first, and JSON, for which it is.
ATTACK = """
const outcome = promise => promise.then(r => `${r.type} ${r.status}`, () => "failed");
const image = new Uint8Array(%s);
const form = document.createElement("form"), frame = document.createElement("iframe");
frame.name = "hidden"; form.target = "hidden"; form.method = "POST"; form.enctype = "text/plain";
form.action = "%s/v1/encode";
document.documentElement.append(frame, form);
const framed = new Promise(done => { frame.onload = () => done("loaded"); });
form.submit();
return {
  blind: await outcome(fetch("%s/v1/encode?k=4", {method: "POST", mode: "no-cors", body: image})),
  read: await outcome(fetch("%s/v1/encode?k=4", {method: "POST", body: image})),
  json: await outcome(fetch("%s/v1/decode", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"})),
  get: await outcome(fetch("%s/v1/tokenizers")),
  socket: await new Promise(done => {
    const socket = new WebSocket("%s/v1/encode".replace("http", "ws"));
    socket.onopen = () => done("open"); socket.onerror = () => done("failed");
  }),
  form: await framed,
};
"""
CLIENT = """
const image = new Uint8Array(%s), base = "%s";
const encoded = await fetch(`${base}/v1/encode?k=4`, {
  method: "POST", body: image, headers: {"Content-Type": "image/jpeg", "X-Request-Id": "mine"}});
const tokens = await encoded.json();
const decoded = await fetch(`${base}/v1/decode`, {
  method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(tokens)});
const events = await fetch(`${base}/v1/decode?k=1,2`, {
  method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(tokens)});
const refused = await fetch(`${base}/v1/encode?k=0`, {method: "POST", body: image});
return {
  k: tokens.k, id: encoded.headers.get("x-request-id"),
  engine: encoded.headers.get("channeltok-engine"),
  image: decoded.headers.get("content-type"),
  events: (await events.text()).match(/(?<=event: )\\w+/g).join(" "),
  code: (await refused.json()).code,
};
"""
CALLS = "channeltok_request_seconds_count"


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with Pages().serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def friend(pages: Pages) -> Iterator[Service]:
    """A service that lets pages of app.example call."""
    with running(allowed_origins=f"http://app.example:{pages.port}") as service:
        yield service


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that needs a token."""
    file = tmp_path_factory.mktemp("locked") / "tokens"
    file.write_text("0123456789abcdef\n")
    file.chmod(0o600)
    with running(bearer_token_file=str(file)) as service:
        yield service


def bytes_of_image() -> str:
    return str(list(jpeg()))


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("localhost", "localhost"),  # the same site on another port
        ("localhost", "127.0.0.1"),
        ("evil.example", "127.0.0.1"),
        ("evil.example", "evil.example"),  # a name that leads to us
    ],
)
def test_pages_of_strangers_do_not_reach_the_engine(
    service: Service, pages: Pages, tmp_path: Path, host: str, target: str
) -> None:
    base = service.rest.replace("127.0.0.1", target)
    calls, reached = sample(service, CALLS), sample(service, "channeltok_errors_total")
    outcome = pages.run(host, ATTACK % (bytes_of_image(), *[base] * 6), tmp_path)
    assert outcome["blind"] in ("opaque 0", "failed")
    for attempt in ("read", "json", "get", "socket"):
        assert outcome[attempt] == "failed", outcome
    assert (sample(service, CALLS), sample(service, "channeltok_errors_total")) == (calls, reached)


def test_pages_of_allowed_origins_are_clients(
    friend: Service, pages: Pages, tmp_path: Path
) -> None:
    outcome = pages.run("app.example", CLIENT % (bytes_of_image(), friend.rest), tmp_path)
    assert outcome.pop("engine")
    assert outcome == {
        "k": 4,
        "id": "mine",
        "image": "image/png",
        "events": "preview preview done",
        "code": "BAD_K",
    }


def test_pages_of_the_service_itself_work(service: Service, tmp_path: Path) -> None:
    """The page fetches its OpenAPI document. Under a name that is not ours there is no page."""
    base = service.rest.replace("127.0.0.1", "localhost")
    assert "Encode an image to its first k tokens" in shown(f"{base}/docs", tmp_path / "ours")
    rebound = service.rest.replace("127.0.0.1", "evil.example")
    assert "FORBIDDEN" in shown(f"{rebound}/docs", tmp_path / "theirs")


@pytest.mark.parametrize(
    ("path", "shows"),
    [
        ("/docs", ["Authorize", "Encode an image to its first k tokens"]),
        ("/redoc", ["bearerToken", "Encode an image to its first k tokens", "RATE_LIMITED"]),
    ],
)
def test_pages_of_the_api_work_offline_and_with_a_token(
    locked: Service, tmp_path: Path, path: str, shows: list[str]
) -> None:
    """Only Redoc's logo is missing: its policy lets no page call another host."""
    assert httpx.get(f"{locked.rest}/v1/tokenizers").status_code == 401
    page = shown(f"{locked.rest}{path}", tmp_path / "page")
    assert [text for text in shows if text not in page] == []
    said = console(f"{locked.rest}{path}", tmp_path / "console")
    assert [line for line in said if "cdn.redoc.ly/redoc/logo-mini.svg" not in line] == []


def test_preflights_tell_allowed_origins_what_they_may_send(friend: Service, pages: Pages) -> None:
    asks = {
        "Origin": f"http://app.example:{pages.port}",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    reply = httpx.options(f"{friend.rest}/v1/encode", headers=asks)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == asks["Origin"]
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert "authorization" in reply.headers["access-control-allow-headers"]
    refused = httpx.options(
        f"{friend.rest}/v1/encode", headers={**asks, "Origin": "http://b.example"}
    )
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
    for path, status in (("/v1/nothing", 404), ("/v1/tokenizers", 200)):
        reply = httpx.get(f"{friend.rest}{path}", headers={"Origin": asks["Origin"]})
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == asks["Origin"]
        assert {"Retry-After", "x-request-id"} <= set(
            reply.headers["access-control-expose-headers"].split(", ")
        )
