import gzip
import re

import httpx
import pytest
from fastapi import FastAPI

from service.rest.pages import WEB, add_folder, add_playground

MAX_BYTES = 150_000  # sent for a page, samples included
PAGES = {"/": "playground", "/live": "live"}


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


def served(app: FastAPI) -> frozenset[str]:
    return (
        add_folder(app, "shared")
        | add_playground(app, lambda: 50051)
        | add_folder(app, "live", "/live")
    )


def calling(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://service")


@pytest.mark.parametrize(("page", "folder"), PAGES.items())
async def test_pages_have_every_file_that_their_files_name(
    app: FastAPI, page: str, folder: str
) -> None:
    paths = served(app)
    async with calling(app) as client:
        for path in paths:
            assert (await client.get(path)).status_code == 200
        index = (await client.get(page)).text
    names = re.findall(rf'(?:src|href)="((?:{folder}|shared)/[^"]+)"', index)
    assert names
    for name in names:
        assert f"/{name}" in paths
    for script in (*(WEB / folder).glob("*.js"), *(WEB / "shared").glob("*.js")):
        for name in re.findall(r'from "([^"]+)"', script.read_text()):
            assert (script.parent / name).resolve().is_file(), f"{script.name} imports {name}"


@pytest.mark.parametrize("page", PAGES)
async def test_pages_are_light(app: FastAPI, page: str) -> None:
    folders = (f"/{PAGES[page]}/", "/shared/")
    sent = 0
    paths = [path for path in served(app) if path == page or path.startswith(folders)]
    async with calling(app) as client:
        for path in paths:
            reply = await client.get(path, headers={"Accept-Encoding": "gzip"})
            sent += int(reply.headers["content-length"])
    assert 20_000 < sent <= MAX_BYTES


@pytest.mark.parametrize("page", PAGES)
async def test_pages_run_their_own_scripts_only(app: FastAPI, page: str) -> None:
    served(app)
    async with calling(app) as client:
        reply = await client.get(page)
    policy = dict(
        part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", reply.text)


async def test_pages_are_compressed_where_the_browser_takes_it(app: FastAPI) -> None:
    served(app)
    async with calling(app) as client:
        plain = await client.get("/", headers={"Accept-Encoding": "br, gzip;q=0"})
        packed = await client.get("/", headers={"Accept-Encoding": "gzip"})
        photo = await client.get("/playground/samples/cat.webp")
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, mtime=0))
    assert packed.content == plain.content == (WEB / "playground/index.html").read_bytes()
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in photo.headers
    assert photo.headers["content-type"] == "image/webp"


async def test_pages_that_the_browser_has_are_not_sent_again(app: FastAPI) -> None:
    served(app)
    async with calling(app) as client:
        first = await client.get("/playground/main.js")
        tag = first.headers["etag"]
        for known in (tag, f'"other", {tag}', "*"):
            again = await client.get("/playground/main.js", headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        changed = await client.get("/playground/main.js", headers={"If-None-Match": '"other"'})
    assert changed.status_code == 200
    assert first.headers["cache-control"] == "no-cache"
