from collections.abc import Iterator

import pytest
from channeltok import Client
from playwright.sync_api import Browser, Page

from tests.support.browser import chromium
from tests.support.chromium import CHROMIUM
from tests.support.playground import VISITS, Visit, visited, wait_for_k
from tests.support.running import Service, running
from tests.support.sketch_generator import repository


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    with chromium() as started:
        yield started


@pytest.fixture(scope="module", params=VISITS.values(), ids=VISITS)
def visit(request: pytest.FixtureRequest) -> Visit:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def site(visit: Visit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the demo tokenizer and a generator."""
    folder = tmp_path_factory.mktemp("site")
    made = repository.write(folder / "generator", pause=0.002)
    options = {"model_repository": str(made.models), "max_generations": "2"}
    if visit.token:
        file = folder / "tokens"
        file.write_text(visit.token)
        file.chmod(0o600)
        options["bearer_token_file"] = str(file)
    with running(**options) as service:
        yield service
        assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]


@pytest.fixture(scope="module")
def caller(site: Service, visit: Visit) -> Iterator[Client]:
    with Client(site.grpc, timeout=60, bearer_token=visit.token) as client:
        yield client


@pytest.fixture
def page(browser: Browser, site: Service, visit: Visit) -> Iterator[Page]:
    """The page, with the sample `cat` at k = 64."""
    with visited(browser, site, visit, "#image=cat&k=64") as started:
        wait_for_k(started, 64)
        yield started
