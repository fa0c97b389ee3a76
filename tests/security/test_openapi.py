"""schemathesis sends what the OpenAPI document allows, and what it does not, to the running service."""

import re
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.jobs import command
from app.main import create_app
from app.settings import Settings
from tests.jobs.support import STAND_IN

SLOWEST_S = 60.0
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
document = create_app(Settings(_env_file=None)).openapi()
schema = schemathesis.openapi.from_dict(document)


@pytest.fixture(scope="module", autouse=True)
def _stand_in() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "TRAINER", STAND_IN)
        yield


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_breaks_the_service(case: schemathesis.Case, server: str) -> None:
    response = case.call(base_url=server, timeout=SLOWEST_S)
    case.validate_response(response, checks=CHECKS)
    assert not re.search(r"Traceback|\.py\b|/home/|/tmp/|site-packages", response.text)
    if response.status_code >= 400:
        assert response.headers["content-type"][0] in ("application/problem+json", "application/json")
