"""What the clients' listener serves, as an OpenAPI document: `/openapi.json`.

It is honest about how little Tandem reads: of a call the fields that are routed on have a type, and
everything else is allowed, since it is the backend's. So it says of an answer no more than that it
is a JSON object or a stream of events. It is made from the same lists as the gateway itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import orjson

from router.dialect import STREAMING
from router.steps import Surface
from router.wire import EXPLAIN, FORWARDED, SESSION_FIELDS

Json = dict[str, Any]

WORDS: Mapping[Surface, str] = {
    Surface.CHAT: "OpenAI chat",
    Surface.COMPLETIONS: "OpenAI completions",
    Surface.EMBEDDINGS: "OpenAI embeddings",
    Surface.RESPONSES: "OpenAI responses",
    Surface.MESSAGES: "Anthropic messages",
    Surface.COUNT_TOKENS: "Anthropic token counts",
    Surface.RERANK: "vLLM's reranking",
    Surface.SCORE: "vLLM's scoring",
}
ANTHROPIC = frozenset({Surface.MESSAGES, Surface.COUNT_TOKENS})
REFUSALS: Mapping[int, str] = {
    400: "The request is wrong.",
    401: "No key, or one that is not known.",
    403: "The key may not do this.",
    404: "No such model, or one that does not have this API.",
    405: "The path has another method.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    415: "The body is compressed.",
    429: "The key's limits, or too much at once.",
    431: "The head is too large.",
    500: "The gateway broke.",
    502: "The backend is broken.",
    503: "No backend can take it now.",
    504: "A backend, or all of it, took too long.",
}
HEADERS: Mapping[str, str] = {
    **dict.fromkeys(FORWARDED, "Passed on to the backend."),
    EXPLAIN: "1: tell who wrote what.",
}


@cache
def document() -> bytes:
    """The document, as JSON."""
    paths: dict[str, Json] = {
        f"/v1/{surface.value}": {"post": _call(surface)} for surface in Surface
    }
    paths |= {
        "/v1/models": {"get": _page("All policies and models.", _ref("Models"), 401)},
        "/v1/models/{name}": {"get": _page("One of them.", _ref("Card"), 401, 404), **_named()},
        "/healthz": {"get": _page("200 while the process answers.", _ref("Status"))},
        "/readyz": {"get": _readiness()},
        "/metrics": {"get": _metrics()},
        "/openapi.json": {"get": _page("This document.", {"type": "object"})},
    }
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Tandem",
                "version": version("tandem-gateway"),
                "description": __doc__,
            },
            "paths": paths,
            "components": {"schemas": SCHEMAS, "securitySchemes": SECURITY},
            "security": [{}, {"bearer": []}, {"key": []}],
        }
    )


# --------------------------------------------------------------------------------------- parts


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _holds(schema: Json, kind: str = "application/json") -> Json:
    return {kind: {"schema": schema}}


def _call(surface: Surface) -> Json:
    answer = _holds({"type": "object"})
    if surface in STREAMING:
        answer["text/event-stream"] = {}
    error = _ref("AnthropicError" if surface in ANTHROPIC else "Error")
    refused = {"anyOf": [error, {"type": "object", "description": "The backend's own."}]}
    return {
        "summary": WORDS[surface],
        "operationId": surface.value.replace("/", "_"),
        "parameters": [
            {"name": name, "in": "header", "description": said, "schema": {"type": "string"}}
            for name, said in HEADERS.items()
        ],
        "requestBody": {"required": True, "content": _holds(_body(surface))},
        "responses": {
            "200": {"description": "The answer.", "content": answer},
            "4XX": {"description": "The request is wrong.", "content": _holds(refused)},
            **{
                str(status): {"description": why, "content": _holds(refused)}
                for status, why in REFUSALS.items()
            },
        },
    }


def _body(surface: Surface) -> Json:
    text: Json = {"type": "string"}
    fields: dict[str, Json] = {"model": {"type": ["string", "null"]}}
    fields |= {
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {"type": ["object", "null"]},
    }
    if surface not in STREAMING:
        fields = {"model": fields["model"]}
    fields |= {name: {"description": "May name the session."} for name in SESSION_FIELDS}
    body: Json = {"type": "object", "properties": fields, "additionalProperties": True}
    if surface is Surface.CHAT:
        message = {"type": "object", "properties": {"role": text, "content": {}}}
        fields["messages"] = {"type": "array", "items": message}
        body["required"] = ["messages"]
    return body


def _page(said: str, schema: Json, *refusals: int) -> Json:
    refused = {
        str(status): {"description": REFUSALS[status], "content": _holds(_ref("Error"))}
        for status in (405, *refusals)
    }
    whole = {"description": said, "content": _holds(schema)}
    return {"summary": said, "responses": {"200": whole, **refused}}


def _named() -> Json:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {"parameters": [name]}


def _readiness() -> Json:
    page = _page("200 if traffic should come here, 503 if not.", _ref("Readiness"))
    not_ready = {"description": "Not now.", "content": _holds(_ref("Readiness"))}
    return {**page, "responses": {**page["responses"], "503": not_ready}}


def _metrics() -> Json:
    page = _page("Metrics.", {})
    text: Json = {"schema": {"type": "string"}}
    kinds = {"text/plain": text, "application/openmetrics-text": text}
    whole = {"description": "In Prometheus' format or OpenMetrics.", "content": kinds}
    return {**page, "responses": {**page["responses"], "200": whole}}


TEXT: Json = {"type": "string"}
SCHEMAS: Mapping[str, Json] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message"],
                "properties": {
                    "message": TEXT,
                    "type": TEXT,
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "integer", "null"]},
                },
            }
        },
    },
    "AnthropicError": {
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": TEXT, "message": TEXT},
            },
        },
    },
    "Card": {
        "type": "object",
        "required": ["id", "object", "created", "owned_by", "tandem"],
        "properties": {
            "id": TEXT,
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": TEXT,
            "max_model_len": {"type": ["integer", "null"]},
            "tandem": {"type": "object", "required": ["kind", "default"]},
        },
    },
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Card"}},
        },
    },
    "Status": {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"const": "ok"}},
    },
    "Readiness": {
        "type": "object",
        "required": ["status", "revision", "models"],
        "properties": {
            "status": {"enum": ["ready", "draining", "no backend is up"]},
            "revision": {"type": "integer"},
            "models": {"type": "object", "additionalProperties": {"type": "object"}},
        },
    },
}
SECURITY: Mapping[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
