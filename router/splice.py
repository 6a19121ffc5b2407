"""Splicing: change a few top-level fields of a JSON object and leave every other byte alone.

Decoding and encoding a body again would round numbers, reorder escapes and lose duplicate keys;
a gateway that promises to pass through what it does not know must not. So the new values are cut
into the client's own bytes. The bytes must be valid JSON: callers have decoded them before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]')
_STRING_VALUE = re.compile(rb'\s*:\s*("[^"\\]*")')
_OPENING, _CLOSING = b"{[", b"}]"
SPACE = 32
"""JSON's white space is the space and three control characters below it."""


def fields(raw: bytes) -> Iterator[tuple[str, int, int]]:
    """Each top-level field of the object in `raw`: its name, where its value starts and ends."""
    depth, key, start, last_string = 0, "", -1, b'""'
    for mark in _MARK.finditer(raw):
        token = mark.group()
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING or token == b",":
            if start >= 0 and depth == 1:
                end = mark.start()
                while raw[end - 1] <= SPACE:
                    end -= 1
                yield key, start, end
                start = -1
            depth -= token in _CLOSING
        elif depth == 1 and start < 0:
            if token == b":":
                key = str(orjson.loads(last_string))
                start = mark.end()
                while raw[start] <= SPACE:
                    start += 1
            else:
                last_string = token


def splice(raw: bytes, body: Mapping[str, Any], changes: Mapping[str, Any]) -> bytes:
    """`raw` with these top-level fields set, present ones in place and new ones in front.

    `body` is what `raw` decodes to. Where a key stands twice, both values are replaced: which of
    two a backend would believe is its own business.
    """
    if not raw:
        return orjson.dumps({**body, **changes})
    encoded = {key: orjson.dumps(value) for key, value in changes.items()}
    front = b"".join(
        b'"%s":%s,' % (key.encode(), value) for key, value in encoded.items() if key not in body
    )
    present = {key for key in encoded if key in body}
    spans = [(start, end, encoded[key]) for key, start, end in _wanted(raw, present)]
    opening = raw.index(b"{") + 1
    if not body:
        front = front[:-1]
    pieces, at = [raw[:opening], front], opening
    for start, end, value in spans:
        pieces += [raw[at:start], value]
        at = end
    return b"".join([*pieces, raw[at:]])


def _only(raw: bytes, key: str) -> tuple[int, int] | None:
    """Where the string value of `key` stands if that can be told at a glance, as it usually can.

    A top-level key that was decoded stands in `raw` as it is unless it is written with escapes; so
    if there are none and the quoted name stands there once, it is this key.
    """
    quoted = b'"%s"' % key.encode()
    at = raw.find(quoted)
    if at < 0 or raw.find(quoted, at + 1) >= 0 or b"\\u" in raw:
        return None
    value = _STRING_VALUE.match(raw, at + len(quoted))
    return value.span(1) if value else None


def _wanted(raw: bytes, keys: set[str]) -> Iterator[tuple[str, int, int]]:
    """The fields named in `keys`; stops reading early if no key can stand a second time."""
    if len(keys) == 1:
        (key,) = keys
        if only := _only(raw, key):
            yield key, *only
            return
    left = sum(raw.count(b'"%s"' % key.encode()) for key in keys) if b"\\u" not in raw else -1
    if left == 0:
        return
    for key, start, end in fields(raw):
        if key in keys:
            yield key, start, end
            left -= 1
            if left == 0:
                return
