"""openapi.json: valid, and about the routes that there are."""

import re
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import azure.functions as func
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

import function_app
from rotators import api
from rotators.batch import Answered
from rotators.decision import LONGEST_REASON
from rotators.errors import BadRequestError
from rotators.openapi import document
from tests.unit.test_docs import ROOT
from tests.unit.test_structure import TRIGGERS


def operations() -> Iterator[tuple[str, str, Mapping[str, Any]]]:  # JSON
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method.upper(), operation


def routes() -> dict[str, tuple[str, set[str], str]]:
    """The HTTP functions: route, methods, level."""
    found = {}
    for function in function_app.app.get_functions():
        trigger = function.get_trigger()
        if trigger is not None and trigger.type == "httpTrigger":
            binding = trigger.get_dict_repr()
            methods = {method.value for method in binding["methods"]}
            found[str(function.get_function_name())] = f"/{binding['route']}", methods, binding["authLevel"].value
    return found


def test_the_document_is_valid() -> None:
    """OpenAPI 3.1, by a validator that is not ours."""
    validate(document(), cls=OpenAPIV31SpecValidator)
    assert document()["openapi"].startswith("3.1.")


def test_every_route_is_in_the_document_and_every_operation_is_a_route() -> None:
    """Function, route and methods; and each is open, or wants a key, as it says."""
    described: dict[str, tuple[str, set[str], str]] = {}
    for path, method, operation in operations():
        level = func.AuthLevel.ANONYMOUS if operation.get("security") == [] else func.AuthLevel.FUNCTION
        _, methods, _ = described.get(operation["x-function"], ("", set(), ""))
        described[operation["x-function"]] = path, methods | {method}, level.value
    assert routes() == described
    assert described.keys() == TRIGGERS - {"rotation_event", "rotation_sweep"}


def test_the_page_has_the_statuses_of_what_rotates() -> None:
    """But for a key that is wrong and a fault of the program, which every route has."""
    page = (ROOT / "docs" / "http.md").read_text()
    for path in ("/secrets/{name}/rotate", "/rotations"):
        (row,) = re.findall(rf"^\| `POST /api{re.escape(path)}` \|(.*)$", page, re.MULTILINE)
        answers = document()["paths"][path]["post"]["responses"].keys()
        assert set(re.findall(r"\b[2-5]\d\d\b", row)) == answers - {"401", "500"}, path


def test_every_operation_says_what_can_go_wrong() -> None:
    """P7: what wants a key can be refused, and each error is a problem; of the page, a page, but for our faults."""
    for path, method, operation in operations():
        answers = operation["responses"]
        if operation.get("security") != []:
            assert {"401", "500", "503"} <= answers.keys(), (method, path)
        for status, answer in answers.items():
            if int(status) >= HTTPStatus.BAD_REQUEST and status != "401":
                is_page = path == "/dashboard" and status != "500"
                kind = "text/html" if is_page else "application/problem+json"
                assert list(answer["content"]) == [kind], (method, path, status)
            if status == "503" and operation.get("security") != [] and path != "/dashboard":
                assert "Retry-After" in answer["headers"]


def schema(name: str) -> OAS31Validator:
    return OAS31Validator({"$ref": f"#/components/schemas/{name}", "components": document()["components"]})


@pytest.mark.parametrize(
    ("name", "body", "is_taken"),
    [
        ("RotateRequest", {}, True),
        ("RotateRequest", {"force": True, "dryRun": False, "revoke": True, "reason": "x" * LONGEST_REASON}, True),
        ("RotateRequest", {"reason": "x" * (LONGEST_REASON + 1)}, False),
        ("RotateRequest", {"frce": True}, False),
        ("RollbackRequest", {"dryRun": True, "reason": "x"}, True),
        ("RollbackRequest", {"force": True}, False),
        ("UpdateRequest", {"enabled": False}, True),
        ("UpdateRequest", {}, False),
        ("UpdateRequest", {"enabled": "false"}, False),
        ("RotationsRequest", {"secrets": ["a"]}, True),
        ("RotationsRequest", {"strategy": "single-user", "olderThan": "30d", "host": "h", "revoke": True}, True),
        ("RotationsRequest", {"secrets": []}, False),
        ("RotationsRequest", {"secrets": ["a/b"]}, False),
        ("RotationsRequest", {"secrets": ["a"], "host": "h"}, False),
        ("RotationsRequest", {"force": True}, False),
        ("RotationsRequest", {"olderThan": "old"}, False),
        ("RotationsRequest", {"strategy": "both"}, False),
    ],
)
def test_what_the_document_takes_the_program_takes(name: str, body: Mapping[str, object], *, is_taken: bool) -> None:
    """Both ways: a client that was made from the document is not surprised."""
    readers: dict[str, Callable[[bytes], object]] = {
        "RotateRequest": lambda sent: api.read_rotate_request("a", sent, {}, trust_principal=False),
        "RollbackRequest": lambda sent: api.read_rollback_request("a", sent, {}, trust_principal=False),
        "UpdateRequest": api.read_update_request,
        "RotationsRequest": lambda sent: api.read_rotations_request(sent, {}, trust_principal=False),
    }
    assert schema(name).is_valid(body) is is_taken
    sent = api.Answer(HTTPStatus.OK, body).text.encode()
    try:
        readers[name](sent)
    except BadRequestError:
        assert not is_taken
    else:
        assert is_taken


def test_what_becomes_of_one_of_many_is_as_described() -> None:
    for status in document()["components"]["schemas"]["Rotation"]["properties"]["status"]["enum"]:
        assert schema("Rotation").is_valid(Answered("a", None, status, "why").as_json())


def test_the_document_names_no_host_and_no_secret() -> None:
    """P3: it is for everybody."""
    text = api.openapi().text
    assert not re.search(r"https?://", text)
    assert "vault.azure.net" not in text
