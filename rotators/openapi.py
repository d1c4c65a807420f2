"""The OpenAPI 3.1 document of the HTTP routes: what a client may send, and what it gets. Pure."""

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from rotators.batch import Status as BatchStatus
from rotators.decision import LONGEST_REASON
from rotators.outcome import ConnectionCopy, RefreshStatus, Status
from rotators.paging import CURSOR, LARGEST_PAGE, PAGE, SIZE
from rotators.policy import Cause, PendingStep, Strategy

type Json = dict[str, Any]  # Any: JSON

_TEXT: Json = {"type": "string"}
_FLAG: Json = {"type": "boolean"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_MOMENT: Json = {"type": "string", "format": "date-time"}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_MOMENT_OR_NULL: Json = {"type": ["string", "null"], "format": "date-time"}
_REASON: Json = {"type": "string", "maxLength": LONGEST_REASON, "description": "why, in a person's words"}
_DRY_RUN: Json = {"type": "boolean", "default": False, "description": "say what would be done, and change nothing"}
_FORCE: Json = {
    "type": "boolean",
    "default": False,
    "description": "also when rotation is paused, or the other user is in its grace",
}
_REVOKE: Json = {
    "type": "boolean",
    "default": False,
    "description": "the credential leaked: lock it out at once, and end its sessions",
}


@cache
def document() -> Json:
    """Return the document; nothing in it depends on the settings."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Credential rotation for Airflow on Azure",
            "version": "1",
            "description": (
                "Rotates the database credentials in a Key Vault. No answer ever has the value of a secret. Errors are "
                "RFC 9457 problems whose detail says what to do. Every answer has `Cache-Control: no-store`."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/api"}],
        "security": [{"functionKey": []}, {"functionKeyInQuery": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {
                "functionKey": {"type": "apiKey", "in": "header", "name": "x-functions-key"},
                "functionKeyInQuery": {"type": "apiKey", "in": "query", "name": "code"},
            },
            "parameters": _PARAMETERS,
            "headers": {
                "RetryAfter": {"description": "seconds to wait before asking again", "schema": {"type": "integer"}}
            },
            "schemas": _schemas(),
        },
    }


# -- routes -----------------------------------------------------------------------------------------------------


def _paths() -> Json:
    name, page = [_parameter("name")], [_parameter("pageSize"), _parameter("cursor")]
    key = [_parameter("idempotencyKey")]
    return {
        "/secrets": {
            "get": _operation(
                "list_secrets",
                "The secrets under rotation, a page at a time",
                {200: _json("SecretPage"), **_problems(400, 502)},
                page,
            )
        },
        "/secrets/{name}": {
            "parameters": name,
            "get": _operation(
                "show_secret",
                "Policy, state, due date and next step of a secret",
                {200: _json("Secret"), **_problems(400, 404, 422, 502)},
            ),
            "patch": _operation(
                "update_secret",
                "Pause or resume its rotation",
                {200: _json("Secret"), **_problems(400, 404, 422, 502)},
                body=("UpdateRequest", True),
            ),
        },
        "/secrets/{name}/history": {
            "parameters": name,
            "get": _operation(
                "show_history",
                "Its versions as rotations, newest first",
                {200: _json("HistoryPage"), **_problems(400, 404, 502)},
                page,
            ),
        },
        "/secrets/{name}/rotate": {
            "parameters": name,
            "post": _operation(
                "rotate_secret",
                "Rotate it now",
                {
                    200: _json("Outcome", "done; planned, for a dry run"),
                    202: _json("Outcome", "published, and the refresh of Airflow is pending"),
                    **_problems(400, 404, 409, 422, 502),
                },
                key,
                body=("RotateRequest", False),
            ),
        },
        "/secrets/{name}/rollback": {
            "parameters": name,
            "post": _operation(
                "roll_back_secret",
                "Make the credential of before the current one again, within its grace and when it logs in",
                {
                    200: _json("Outcome", "done; planned, for a dry run"),
                    202: _json("Outcome", "published, and the refresh of Airflow is pending"),
                    **_problems(400, 404, 409, 422, 502),
                },
                key,
                body=("RollbackRequest", False),
            ),
        },
        "/secrets/{name}/check": {
            "parameters": name,
            "post": _operation(
                "check_secret",
                "Try every condition of a rotation, and change nothing",
                {200: _json("Checks"), **_problems(400, 404)},
            ),
        },
        "/rotations": {
            "post": _operation(
                "rotate_secrets",
                "Rotate all that are named, or that match",
                {
                    200: _json("Rotations", "a dry run: which are meant"),
                    202: _json("Rotations", "one entry for each; with a topic they are handed out over it"),
                    **_problems(400, 404, 409, 502),
                },
                key,
                body=("RotationsRequest", True),
            )
        },
        "/health": {
            "get": _operation(
                "health",
                "A line for each outside system",
                {
                    200: _json("Health"),
                    503: {
                        "description": "an outside system fails, or the app settings are wrong",
                        "content": {"application/problem+json": {"schema": {"anyOf": [_ref("Health"), _PROBLEM]}}},
                    },
                },
                is_anonymous=True,
            )
        },
        "/dashboard": {
            "parameters": [{"name": "secret", "in": "query", "schema": _TEXT, "description": "the page of one secret"}],
            "get": _operation("dashboard", "The page for people", {200: _page(), **_pages(400, 404, 502, 503)}),
            "post": _operation(
                "dashboard",
                "What its buttons do",
                {
                    200: _page(),
                    303: {"description": "done: back to the page"},
                    **_pages(400, 403, 404, 409, 422, 502, 503),
                },
                operation_id="dashboard_act",
            ),
        },
        "/openapi.json": {
            "get": _operation(
                "openapi",
                "This document",
                {200: {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}}},
                is_anonymous=True,
            )
        },
    }


def _operation(  # noqa: PLR0913 (an operation has that many parts)
    function: str,
    summary: str,
    answers: Mapping[int, Json],
    parameters: list[Json] | None = None,
    *,
    body: tuple[str, bool] | None = None,
    is_anonymous: bool = False,
    operation_id: str = "",
) -> Json:
    """Describe the route of a function; `body` is its schema and whether it has to be there."""
    described: Json = {
        "operationId": operation_id or function,
        "x-function": function,
        "summary": summary,
        "responses": {str(status): answer for status, answer in answers.items()},
    }
    if parameters:
        described["parameters"] = parameters
    if body:
        schema, is_required = body
        described["requestBody"] = {"required": is_required, "content": {"application/json": {"schema": _ref(schema)}}}
    if is_anonymous:
        described["security"] = []
    else:
        # The host answers for itself when the key is missing, with no body.
        described["responses"] = {
            "401": {"description": "no function key, or a wrong one"},
            **_unavailable(),
            **described["responses"],
        }
    return described


def _ref(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _parameter(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


def _json(schema: str, description: str = "") -> Json:
    return {"description": description or schema, "content": {"application/json": {"schema": _ref(schema)}}}


def _page(description: str = "a page") -> Json:
    return {"description": description, "content": {"text/html": {"schema": _TEXT}}}


def _pages(*statuses: int) -> dict[int, Json]:
    return {status: _page(_MEANINGS.get(status, _UNAVAILABLE)) for status in statuses}


_PROBLEM = _ref("Problem")
_UNAVAILABLE = "an outside system is not reachable, or the app settings are wrong"
_MEANINGS = {
    400: "something in the request is not as it should be",
    403: "the request came from another site",
    404: "no such secret, or none that matches",
    409: "busy (with Retry-After), paused, in its grace, in use, or no way back",
    422: "the policy or the secret is unusable, or it is not under rotation",
    502: "the database, Key Vault or Airflow refused",
}


def _problems(*statuses: int) -> dict[int, Json]:
    return {status: _problem(_MEANINGS[status], may_wait=status == 409) for status in statuses}  # noqa: PLR2004 (HTTP)


def _unavailable() -> Json:
    return {
        "500": _problem("a fault of this program"),
        "503": _problem(_UNAVAILABLE, may_wait=True),
    }


def _problem(description: str, *, may_wait: bool = False) -> Json:
    answer: Json = {"description": description, "content": {"application/problem+json": {"schema": _PROBLEM}}}
    if may_wait:
        answer["headers"] = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
    return answer


_PARAMETERS: Json = {
    "name": {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "the secret's name",
        "schema": {"type": "string", "pattern": "^[0-9a-zA-Z-]{1,127}$"},
    },
    "idempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "chosen by the client: requests with the same one make one version",
        "schema": {"type": "string", "maxLength": 255},
    },
    "pageSize": {
        "name": SIZE,
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": PAGE},
    },
    "cursor": {
        "name": CURSOR,
        "in": "query",
        "description": "as in the nextLink of the page before",
        "schema": _TEXT,
    },
}


# -- schemas ----------------------------------------------------------------------------------------------------


def _schemas() -> Json:
    return {
        "Problem": _object(
            ("outcome", "value", "complaints"),
            type=_TEXT,
            title=_TEXT,
            status={"type": "integer"},
            detail={"type": "string", "description": "what is wrong, and how to mend it"},
            outcome=_ref("Outcome"),
            value=_array(_ref("Rotation")),
            complaints=_array(_TEXT),
        ),
        "RotateRequest": _request(force=_FORCE, dryRun=_DRY_RUN, revoke=_REVOKE, reason=_REASON),
        "RollbackRequest": _request(dryRun=_DRY_RUN, reason=_REASON),
        "UpdateRequest": {**_request(enabled=_FLAG), "required": ["enabled"]},
        "RotationsRequest": {
            **_request(
                secrets=_array(_PARAMETERS["name"]["schema"]) | {"minItems": 1},
                strategy=_one_of(Strategy),
                olderThan={
                    "type": "string",
                    "pattern": r"^\s*\d{1,5}[mhd]\s*$",
                    "description": "the age of the current version: 15m, 36h, 60d",
                },
                host={"type": "string", "description": "the server: name, name:port or *.suffix"},
                force=_FORCE,
                revoke=_REVOKE,
                dryRun=_DRY_RUN,
                reason=_REASON,
            ),
            "oneOf": [
                {"required": ["secrets"]},
                {"anyOf": [{"required": ["strategy"]}, {"required": ["olderThan"]}, {"required": ["host"]}]},
            ],
        },
        "Rotations": _object(value=_array(_ref("Rotation"))),
        "Rotation": _object(
            secret=_TEXT,
            id={"type": ["string", "null"], "description": "the rotationId of its outcome, wherever that is told"},
            status=_one_of(BatchStatus),
            reason=_TEXT,
        ),
        "Outcome": _object(
            secret=_TEXT,
            status=_one_of(Status),
            reason=_TEXT,
            cause=_one_of(Cause),
            by=_TEXT_OR_NULL,
            rotationId=_TEXT_OR_NULL,
            version=_TEXT_OR_NULL,
            previousVersion=_TEXT_OR_NULL,
            strategy=_one_of(Strategy, or_null=True),
            user=_TEXT_OR_NULL,
            expiresOn=_MOMENT_OR_NULL,
            retireAt=_MOMENT_OR_NULL,
            steps=_array(_object(step=_TEXT, milliseconds={"type": "number", "minimum": 0})),
            airflow={"anyOf": [_ref("Airflow"), {"type": "null"}]},
            warnings=_array(_TEXT),
        ),
        "Airflow": _object(
            status=_one_of(RefreshStatus),
            connection=_one_of(ConnectionCopy, or_null=True),
            retried=_array(
                _object(
                    dagId=_TEXT,
                    dagRunId=_TEXT,
                    tasks=_array(
                        {
                            "type": "array",
                            "prefixItems": [_TEXT, {"type": "integer", "minimum": -1}],
                            "minItems": 2,
                            "maxItems": 2,
                        }
                    ),
                )
            ),
            suspected=_array(_ref("Task")),
            unknown=_array(_ref("Task")),
            examined=_COUNT,
        ),
        "Task": _object(dagId=_TEXT, dagRunId=_TEXT, taskId=_TEXT, mapIndex={"type": "integer"}, why=_TEXT),
        "SecretPage": _list_of("Secret"),
        "Secret": _object(
            ("dueOn", "policy", "state"),
            secret=_TEXT,
            version={"type": ["string", "null"], "description": "null where a list is read"},
            createdOn=_MOMENT,
            expiresOn=_MOMENT_OR_NULL,
            tags={"type": "object", "additionalProperties": _TEXT, "description": "those of the policy"},
            managed=_FLAG,
            status=_TEXT,
            nextStep=_TEXT,
            warnings=_array(_TEXT),
            dueOn=_MOMENT_OR_NULL,
            policy={"anyOf": [_ref("Policy"), {"type": "null"}]},
            state={"anyOf": [_ref("State"), {"type": "null"}]},
        ),
        "Policy": _object(
            strategy=_one_of(Strategy),
            enabled=_FLAG,
            everySeconds=_COUNT,
            validitySeconds=_COUNT,
            graceSeconds=_COUNT,
            window=_TEXT_OR_NULL,
            inUse={"enum": ["wait", "proceed"]},
            users={"type": ["array", "null"], "items": _TEXT},
            connectionId=_TEXT_OR_NULL,
            dags=_array(_TEXT),
        ),
        "State": {
            **_object(
                (),
                id=_TEXT,
                cause=_one_of(Cause),
                by=_TEXT,
                at=_MOMENT,
                pending=_array(_one_of(PendingStep)),
                retireAt=_MOMENT_OR_NULL,
                retired=_MOMENT_OR_NULL,
                reason=_TEXT_OR_NULL,
                # A word of Python's, and so no keyword.
                **{"from": _TEXT_OR_NULL},
            ),
            "description": "what the program wrote about the current version",
        },
        "HistoryPage": _list_of("HistoryEntry"),
        "HistoryEntry": _object(
            version=_TEXT,
            current=_FLAG,
            createdOn=_MOMENT,
            expiresOn=_MOMENT_OR_NULL,
            enabled=_FLAG,
            cause={"enum": [*get_args(Cause), "by hand"]},
            reason=_TEXT_OR_NULL,
            by=_TEXT_OR_NULL,
            rotationId=_TEXT_OR_NULL,
            previousVersion=_TEXT_OR_NULL,
            pending=_array(_one_of(PendingStep)),
            user={"type": ["string", "null"], "description": "null where only an old value would tell"},
            retireAt=_MOMENT_OR_NULL,
            retiredOn=_MOMENT_OR_NULL,
            retired=_FLAG,
        ),
        "Checks": _object(
            secret=_TEXT,
            ready=_FLAG,
            checks=_array(_object(check=_TEXT, result={"enum": ["fine", "mend", "remark", "not tried"]}, detail=_TEXT)),
        ),
        "Health": _object(
            status={"enum": ["healthy", "failing"]}, systems={"type": "object", "additionalProperties": _TEXT}
        ),
    }


def _object(optional: tuple[str, ...] = (), **properties: Json) -> Json:
    """Return the schema of what we answer: each property is always there, but for the optional ones."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def _request(**properties: Json) -> Json:
    """Return the schema of what is sent to us: everything may be left out, and nothing else is taken."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _list_of(schema: str) -> Json:
    return _object(
        value=_array(_ref(schema)),
        nextLink={"type": ["string", "null"], "format": "uri", "description": "the next page; send the key along"},
    )


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _one_of(choices: Any, *, or_null: bool = False) -> Json:  # Any: a Literal has no type of its own
    return {"enum": [*get_args(choices), *([None] if or_null else [])]}
