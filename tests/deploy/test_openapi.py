"""docs/openapi.json: as the code describes the API, and as linters and generators want it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from deploy import openapi
from service import errors
from tests.support.node import INSTALLED, node

needs_npm = pytest.mark.skipif(not INSTALLED, reason="needs npm's packages: make test")
DOCUMENT = json.loads(openapi.FILE.read_text())


def operations() -> Iterator[dict[str, Any]]:
    for methods in DOCUMENT["paths"].values():
        yield from methods.values()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_openapi_file_is_what_the_code_says() -> None:
    assert openapi.FILE.read_text() == openapi.text(), "run make openapi"


def test_openapi_references_resolve() -> None:
    found = set(references(DOCUMENT))
    assert found
    for reference in found:
        place = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_openapi_problems_have_a_media_type_of_their_own_and_examples() -> None:
    codes = set()
    for operation in operations():
        for status, response in operation["responses"].items():
            problem = response["content"].get("application/problem+json")
            if status < "400" or (status == "503" and operation["operationId"] == "readyz"):
                assert problem is None
                continue
            assert response["content"] == {"application/problem+json": problem}
            codes |= set(problem["examples"])
    assert codes == {
        kind.code
        for kind in errors.KINDS
        if kind not in (errors.NoSuchPath, errors.MethodNotAllowed)
    }


def test_openapi_operations_are_named_and_only_probes_need_no_token() -> None:
    names = {operation["operationId"]: operation for operation in operations()}
    assert {"encode", "decode", "generate", "listTokenizers", "listGenerators"} <= set(names)
    assert {name for name, one in names.items() if one.get("security") == []} == {"livez", "readyz"}
    assert all(len(one["tags"]) == 1 for one in names.values())
    assert DOCUMENT["components"]["securitySchemes"]["bearerToken"]["scheme"] == "bearer"


def test_openapi_numbers_are_numbers() -> None:
    parameters = {one["name"]: one for one in DOCUMENT["paths"]["/v1/encode"]["post"]["parameters"]}
    assert parameters["k"]["schema"]["type"] == "integer"


@needs_npm
def test_openapi_passes_spectral() -> None:
    ruleset = "spectral.yaml"
    arguments = ("lint", openapi.FILE, "--ruleset", ruleset, "--fail-severity", "warn")
    node("node_modules/@stoplight/spectral-cli/dist/index.js", *arguments)


@needs_npm
def test_openapi_passes_redocly() -> None:
    arguments = ("lint", openapi.FILE, "--max-problems", "20")
    node("node_modules/@redocly/cli/bin/cli.js", *arguments)
