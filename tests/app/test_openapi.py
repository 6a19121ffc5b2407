"""The clients' API as a document: all of it, and what it says is so."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest

from app.gateway import PAGES, SURFACES
from app.openapi import REFUSALS, document
from tests.conftest import Started
from tests.running import config
from tests.scripted import Backend

TOLD: dict[str, Any] = json.loads(document())


def schema_of(path: str, method: str, status: int) -> dict[str, Any]:
    """What an answer must be, with all that it refers to."""
    answers = TOLD["paths"][path][method]["responses"]
    content = (answers.get(str(status)) or answers["4XX"])["content"]
    whole: dict[str, Any] = content["application/json"]["schema"]
    return {**whole, "components": TOLD["components"]}


def test_it_has_every_path_and_no_other() -> None:
    assert TOLD["paths"].keys() == {*SURFACES, *PAGES, "/v1/models/{name}"}


def test_all_that_is_referred_to_is_there() -> None:
    named = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(TOLD))
    assert set(named) == TOLD["components"]["schemas"].keys()


@pytest.mark.parametrize("path", [*sorted(PAGES - {"/metrics"}), "/v1/models/small"])
async def test_pages_are_as_it_says(gateway: Started, small: Backend, path: str) -> None:
    running = await gateway(config({"small": small}))
    answer = await running.client.get(path)
    assert answer.status_code == 200
    shape = path.replace("small", "{name}")
    jsonschema_rs.validate(schema_of(shape, "get", 200), answer.json())
    wrong = await running.client.delete(path)
    jsonschema_rs.validate(schema_of(shape, "get", 405), wrong.json())


@pytest.mark.parametrize("path", SURFACES)
async def test_refusals_are_as_it_says(gateway: Started, small: Backend, path: str) -> None:
    running = await gateway(config({"small": small}))
    for body in (b"", b"[]", b'{"model": "nobody"}', b'{"model": 7}'):
        answer = await running.client.post(path, content=body)
        assert answer.status_code in REFUSALS
        jsonschema_rs.validate(schema_of(path, "post", answer.status_code), answer.json())
