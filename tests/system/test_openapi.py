"""Replies are what docs/openapi.json says, to requests that schemathesis draws from it."""

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok

from deploy.openapi import FILE
from imaging import FORMATS
from tests.support.photographs import jpeg
from tests.support.running import Service

EXAMPLES = 12
# What a schema cannot say: base64, ids and budgets of the served tokenizer, names that are served.
REFUSALS = ["2xx", "400", "404", "409", "413", "415", "422", "503"]
SCHEMA = schemathesis.openapi.from_path(
    FILE,
    config=SchemathesisConfig.from_dict(
        {"checks": {"positive_data_acceptance": {"expected-statuses": REFUSALS}}}
    ),
)
OPERATIONS = {
    operation.ok().label: operation.ok()
    for operation in SCHEMA.get_all_operations()
    if isinstance(operation, Ok)
}
VALID, INVALID = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE

for media_type in FORMATS:
    schemathesis.openapi.media_type(media_type, st.one_of(st.just(jpeg()), st.binary(max_size=40)))


@schemathesis.serializer("application/x-ndjson")
def as_line(context: Any, value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("mode", [VALID, INVALID], ids=["valid", "invalid"])
@pytest.mark.parametrize("label", OPERATIONS)
def test_openapi_describes_every_reply(
    service: Service, label: str, mode: schemathesis.GenerationMode
) -> None:
    operation = OPERATIONS[label]
    if mode is INVALID and not (operation.query or operation.body):
        return  # it takes nothing that could be wrong
    names = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
    if mode is VALID:
        names.append("positive_data_acceptance")
    elif not label.endswith(":batch"):  # there a wrong item is refused in its own line
        names.append("negative_data_rejection")
    checks = CHECKS.get_by_names(names)

    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode), keep_accept=st.booleans())
    def call(case: schemathesis.Case[Any], keep_accept: bool) -> None:
        reply = case.call(base_url=service.rest, timeout=20)
        case.validate_response(reply, checks=checks)

    call()
