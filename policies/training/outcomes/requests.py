"""From a row to the request that a gateway would have seen: the same parser, the same fields.

So that a policy replayed over rows is asked exactly what it is asked when it serves.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import orjson

from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Rows
from router.faults import FaultError
from router.steps import Request, Surface
from router.wire import parse

TARGET = "rows"
"""What the requests ask for, where the caller does not say."""


def requests_of(rows: Rows, seed: int = 0, target: str = TARGET) -> Iterator[Request]:
    """A chat request per row: its conversation, or its prompt as the one user message.

    `seed` fixes each request's draw and id. Raises `RowsError` for messages that no gateway takes.
    """
    rng = random.Random(seed)
    for number, prompt in enumerate(rows.prompts):
        given = None if rows.messages is None else rows.messages[number]
        messages: Any = [{"role": "user", "content": prompt}] if given is None else given
        raw = orjson.dumps({"model": target, "messages": messages})
        try:
            yield parse(Surface.CHAT, raw, {}, target, rng)
        except FaultError as error:
            named = rows.ids[number] if rows.ids else str(number + 1)
            raise RowsError(f"row {named}: {error.fault.message}") from None
