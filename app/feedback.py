"""Feedback: how good an answer was, as somebody says who has seen it. Read strictly, or not at all.

Which log it goes to, and who may send it, is known elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

__all__ = ["SCHEMA", "Feedback", "FeedbackError", "read_feedback"]


class Feedback(BaseModel):
    """How good the answer to one request was."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True
    )

    id: Annotated[str, Field(pattern="^req-[0-9a-f]{24}$")]
    """The answer's `x-request-id`."""
    score: Annotated[float, Field(ge=0, le=1)]
    """0 for useless, 1 for as good as can be."""


ONE = Feedback.model_json_schema()
SCHEMA: dict[str, Any] = {"anyOf": [ONE, {"type": "array", "items": ONE}]}
"""One, or a list of them."""

_SEVERAL = TypeAdapter(list[Feedback])


class FeedbackError(Exception):
    """It cannot be read; the message says what is wrong, and with which of several."""


def read_feedback(text: str) -> list[Feedback]:
    """`{"id": ..., "score": ...}`, or a list of such. Raises `FeedbackError`."""
    try:
        said = orjson.loads(text)
        return _SEVERAL.validate_python(said if isinstance(said, list) else [said])
    except orjson.JSONDecodeError as error:
        raise FeedbackError(f"not valid JSON: {error}") from None
    except ValidationError as error:
        found = error.errors(include_input=False)[0]
        number, *field = found["loc"]
        where = ".".join(map(str, [number, *field] if isinstance(said, list) else field))
        raise FeedbackError(f"{where}: {found['msg']}" if where else found["msg"]) from None
