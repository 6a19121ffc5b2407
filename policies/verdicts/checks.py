"""Checks: what a draft shows by itself, with nobody asked.

Its mean log-probability, for which the backend must have been told to report any, and whether it is
JSON that a schema allows. What follows from that is the policy's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from router.steps import UNCHANGED, Draft, Request, Surface

Schema: TypeAlias = Mapping[str, Any] | Literal["request"]
"""A JSON schema, or word that the request brings its own."""


def asking_logprobs(request: Request) -> Mapping[str, Any]:
    """Chat wants a switch, completions a number of alternatives; 0 of them cost least."""
    if request.body.get("logprobs"):
        return UNCHANGED
    return {"logprobs": 0 if request.surface is Surface.COMPLETIONS else True}


def mean_logprob(draft: Draft) -> float | None:
    """Natural, per token; None if the backend told none."""
    known = [token.logprob for token in draft.tokens if token.logprob is not None]
    return sum(known) / len(known) if known else None


def refuse_no_schema(schema: Schema | None) -> None:
    """Raises ValueError for a setting that is no JSON schema."""
    if isinstance(schema, Mapping):
        import jsonschema_rs  # only here: vLLM, which loads the gate from beside, has it not

        try:
            jsonschema_rs.meta.validate(dict(schema))
        except jsonschema_rs.ValidationError as error:
            raise ValueError(f"json_schema: not a JSON schema: {error.message}") from None


def schema_for(schema: Schema | None, request: Request) -> Mapping[str, Any] | None:
    """The schema in force; None if the request was to bring one and did not."""
    if schema != "request":
        return schema
    form = request.body.get("response_format")
    stated = form.get("json_schema") if isinstance(form, dict) else None
    brought = stated.get("schema") if isinstance(stated, dict) else None
    return brought if isinstance(brought, dict) else None


def schema_problem(schema: Mapping[str, Any] | None, text: str) -> str | None:
    """What is wrong with `text` as JSON of this schema; None if nothing is. To be computed."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "the draft is not JSON"
    if schema is None:
        return None
    import jsonschema_rs

    try:
        jsonschema_rs.validate(dict(schema), value, offline=True)  # the schema may be a client's
    except jsonschema_rs.ValidationError as error:  # its text quotes the draft: only say where
        place = "/".join(str(step) for step in error.instance_path) or "the top"
        return f"the draft does not fit the schema at {place}"
    except ValueError:
        return "the schema is no JSON schema"
    return None
