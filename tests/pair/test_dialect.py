"""The pair's answers have the shape of vLLM's: same status, same fields in the same places.

`vllm_answers.json` holds what a real vLLM 0.32 said to the same requests about the same model files
(see `capture_vllm`). Values are not compared, except where they do not depend on weights: prompt
token ids, counts, finish reasons, and of errors their type, field and status.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.pair.capture_vllm import FILE, ask

CASES: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
SAME = {
    "object", "index", "role", "finish_reason", "stop_reason", "usage", "prompt_token_ids", "count",
    "max_model_len", "param", "code", "tokens", "token_strs", "prompt", "prompt_text",
}  # fmt: skip
# Keys are the model's own words here.
FREE = {"top_logprobs", "prompt_logprobs"}


def differences(theirs: Any, ours: Any, where: str = "") -> Iterator[str]:
    """Every place where our answer is not like theirs."""
    match theirs, ours:
        case dict(), dict():
            for name in theirs.keys() ^ ours.keys():
                yield f"{where}.{name} is {'missing' if name in theirs else 'not in vLLM'}"
            for name in theirs.keys() & ours.keys():
                yield from field_differences(name, theirs[name], ours[name], f"{where}.{name}")
        case list(), list() if all(isinstance(each, dict) for each in theirs):
            if len(theirs) != len(ours):
                yield f"{where}: vLLM {len(theirs)}, here {len(ours)}"
            for at, (left, right) in enumerate(zip(theirs, ours, strict=False)):
                yield from differences(left, right, f"{where}[{at}]")
        case _ if type(theirs) is not type(ours):
            yield f"{where}: vLLM {theirs!r}, here {ours!r}"


def field_differences(name: str, theirs: Any, ours: Any, where: str) -> Iterator[str]:
    """The same for one field, by what its value may depend on."""
    unnamed = name == "param" and theirs is None  # vLLM names the field less often than it could
    if unnamed or name in FREE:
        return
    if name not in SAME or where.endswith("logprobs.tokens"):
        yield from differences(theirs, ours, where)
    elif theirs != ours:
        yield f"{where}: vLLM {theirs!r}, here {ours!r}"


@pytest.mark.parametrize("name", CASES)
def test_the_same_shape_as_vllm(pair: httpx.Client, name: str) -> None:
    case = CASES[name]
    ours = ask(pair, case["path"], case["body"] | {"model": case["body"].get("model", "large")})
    assert ours["status"] == case["status"], ours
    assert list(differences(case["answer"], ours["answer"])) == []
