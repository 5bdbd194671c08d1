"""The server's description of itself: https://spec.openapis.org/oas/v3.1.0."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlab.serving.limits import Limits
from rlab.serving.ports import DATATYPES
from rlab.version import VERSION

Operation = tuple[str, str, Mapping[str, Any]]  # method, path, and its entry
ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
PARAMETERS = {
    "type": "object",
    "additionalProperties": {"type": ["boolean", "number", "string"]},
    "description": "`sequence_id` (a number or a text), `sequence_start` and `sequence_end` (booleans) name the "
    "episode that the request is a step of; `binary_data_size` of an input, `binary_data` of an output and "
    "`binary_data_output` of the request (both booleans) have numbers as bytes behind the JSON, whose length is then "
    "in the header Inference-Header-Content-Length: the extension binary_tensor_data of Triton",
}
NAME = {"type": "string"}
LIVE = {"type": "object", "required": ["live"], "properties": {"live": {"type": "boolean"}}}
READY = {"type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}}}
SHAPE = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
DATATYPE = {"enum": sorted(DATATYPES.values())}
PORT: dict[str, Any] = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {"name": NAME, "datatype": DATATYPE, "shape": SHAPE},
}
SERVER = {
    "type": "object",
    "required": ["name", "version", "extensions"],
    "properties": {"name": NAME, "version": NAME, "extensions": {"type": "array", "items": NAME}},
}
METADATA = {
    "type": "object",
    "required": ["name", "versions", "platform", "inputs", "outputs"],
    "properties": {
        "name": NAME,
        "versions": {"type": "array", "items": NAME},
        "platform": NAME,
        "inputs": {"type": "array", "items": PORT},
        "outputs": {"type": "array", "items": PORT},
        "parameters": {"type": "object", "description": "the spaces, in rlab's words"},
    },
}
ANSWER = {
    "type": "object",
    "required": ["model_name", "model_version", "id", "outputs"],
    "properties": {
        "model_name": NAME,
        "model_version": NAME,
        "id": NAME,
        "outputs": {
            "type": "array",
            "items": {
                **PORT,
                "required": [*PORT["required"], "data"],
                "properties": {**PORT["properties"], "data": {"type": "array"}},
            },
        },
    },
}


def _request_schema(limits: Limits) -> dict[str, Any]:
    """Of an inference request."""
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "description": "`obs`; for a policy with memory also `state`"},
            "shape": {**SHAPE, "description": f"the rows first, 1 to {limits.max_rows}, then the shape of one row"},
            "datatype": DATATYPE,
            "data": {"type": "array", "description": "row by row, flat or nested"},
            "parameters": PARAMETERS,
        },
    }
    wanted = {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {"name": NAME, "parameters": PARAMETERS},
    }
    return {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "maxLength": 256, "description": "comes back with the answer"},
            "inputs": {"type": "array", "items": tensor},
            "outputs": {"type": "array", "items": wanted, "description": "`action` where it is left out"},
            "parameters": PARAMETERS,
        },
    }


def operation(summary: str, answer: Mapping[str, Any], *refusals: int, **more: Any) -> dict[str, Any]:
    """The entry of an operation that answers with such a JSON, or refuses with one of these statuses."""
    responses: dict[str, Any] = {"200": {"description": "done", "content": {"application/json": {"schema": answer}}}}
    for status in refusals:
        responses[str(status)] = {
            "description": REFUSALS[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    return {"summary": summary, "responses": responses, **more}


REFUSALS = {
    400: "the request does not fit",
    401: "the token is missing or wrong",
    403: "the request comes from a page of another site",
    404: "there is no such model or version",
    408: "the request took too long to arrive",
    409: "the step before has no answer yet",
    413: "the body is too long",
    415: "the body is encoded",
    422: "the policy gives no finite numbers for this",
    431: "the headers are too long",
    500: "the server failed",
    503: "the server is loading or busy",
}
ALWAYS = (400, 401, 403, 408, 413, 415, 431, 500, 503)  # whatever the operation


def inference(limits: Limits) -> dict[str, Any]:
    """The entry of inference."""
    content = {"application/json": {"schema": _request_schema(limits)}}
    body = {"required": True, "content": content}
    entry = operation("The action for each observation", ANSWER, 404, 409, 422, requestBody=body)
    entry["responses"]["200"]["content"] |= {"application/octet-stream": {}}
    return entry


READINESS = operation("Whether every model is loaded", READY)


def described(routes: Sequence[Operation], models: Sequence[str], token: bool) -> dict[str, Any]:
    """The description.

    Args:
        routes: method, path and entry of each operation.
        models: the names of those that are served.
        token: whether requests need one.
    """
    paths: dict[str, dict[str, Any]] = {}
    for method, path, entry in routes:
        names = re.findall(r"{(\w+)}", path)
        parameters = [{"name": name, "in": "path", "required": True, "schema": _schema(name, models)} for name in names]
        always = operation("", {}, *ALWAYS)["responses"]
        responses = {**{status: always[str(status)] for status in map(str, ALWAYS)}, **entry.get("responses", {})}
        paths.setdefault(path, {})[method.lower()] = {
            **entry,
            "responses": responses,
            "parameters": [*parameters, *entry.get("parameters", ())],
        }
    scheme: dict[str, Any] = {"components": {"schemas": {"Error": ERROR}}}
    if token:
        schemes = {"bearer": {"type": "http", "scheme": "bearer"}, "basic": {"type": "http", "scheme": "basic"}}
        scheme["components"]["securitySchemes"] = schemes
        scheme["security"] = [{"bearer": []}, {"basic": []}]
    info = {"title": "rlab", "version": VERSION, "description": "Policies that answer: Open Inference Protocol 2."}
    return {"openapi": "3.1.0", "info": info, "paths": paths, **scheme}


def _schema(name: str, models: Sequence[str]) -> dict[str, Any]:
    return {"enum": list(models)} if name == "model" and models else {"type": "string", "minLength": 1}
