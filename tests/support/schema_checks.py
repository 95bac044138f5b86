"""Requests made from the OpenAPI document by Schemathesis, with the checks of every answer."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CONFORMANCE = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]

# What a JSON Schema cannot say: a number of different values, and that this server made a value.
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
BEYOND_SCHEMA = (
    "inputs must have at most 10 voices.",
    "was not issued by this server.",
    "GET /v1/audio/voices lists them.",
)


def accepts_valid_data(context: Any, response: Any, case: Any) -> bool | None:
    """Check that a valid request is accepted, but for the rules beyond its schema.

    A form's files must be audio, each with its transcript, and its labels JSON.
    """
    if case.media_type in FORMS and response.status_code == 422:
        return None
    if response.status_code in (400, 422) and any(rule in response.text for rule in BEYOND_SCHEMA):
        return None
    return positive_data_acceptance(context, response, case)


def check_operation(operation: Any, base_url: str, *, negative: bool, examples: int) -> int:
    """Send requests that keep to the document, or do not; return how many were sent.

    Raises schemathesis' failures for an answer that the document does not have, for a valid request
    that is refused, and for an invalid one that is not.
    """
    mode = GenerationMode.NEGATIVE if negative else GenerationMode.POSITIVE
    decided = negative_data_rejection if negative else accepts_valid_data
    sent = 0

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        nonlocal sent
        sent += 1
        case.call_and_validate(base_url=base_url, checks=[*CONFORMANCE, decided], timeout=10)

    check()
    return sent


def can_be_wrong(operation: Any) -> bool:
    """Return whether a request can break the description: a path's text cannot."""
    return any("enum" in one.definition["schema"] for one in operation.path_parameters) or bool(
        list(operation.query) or list(operation.body)
    )


def operations(document: dict[str, Any]) -> list[Any]:
    """Return the operations of a document."""
    schema = schemathesis.openapi.from_dict(document)
    return [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
