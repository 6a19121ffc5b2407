"""What a token policy says and hears, in few words: the lines of its playbooks.

`CHAT` asks for 20 tokens; its prompt is rendered to the ids 1, 2, 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from policies.duet.turn import TURN_SHARE
from router.fleet import Abilities, Fleet
from router.steps import (
    Alternative,
    Attempt,
    Delta,
    Emit,
    Finished,
    Next,
    Open,
    Policy,
    Render,
    Request,
    Surface,
    Token,
    Usage,
)
from tests.fleets import attempt, fleet, request
from tests.playbook import Playbook

GATE = 99
PROMPT = (1, 2, 3)
MESSAGES = [{"role": "user", "content": "What is 3 + 4?"}]
CHAT = request(body={"messages": MESSAGES, "max_tokens": 20, "temperature": 0})
S1, S2 = attempt("small", "a:1", 1), attempt("small", "a:1", 2)
S3, S4 = attempt("small", "a:1", 3), attempt("small", "a:1", 4)
L1, L2 = attempt("large", "x:1", 11), attempt("large", "x:1", 12)


def chat(**fields: Any) -> Request:
    """`CHAT` with these fields changed."""
    return request(body={**CHAT.body, **fields})


def able(**abilities: Any) -> Fleet:
    """Both models, with gates in their engines unless something else is said."""
    views = dict(fleet("small", "large").models)
    known = Abilities(**{"token_ids": True, "gate": GATE, **abilities})
    for name, view in views.items():
        views[name] = replace(view, abilities=known)
    return Fleet(MappingProxyType(views))


def play(policy: Policy, asked: Request = CHAT, models: Fleet | None = None) -> Playbook:
    """The conversation up to the rendered prompt."""
    played = Playbook(policy, asked, models or able())
    return played.asks(Render("small", asked)).hears(PROMPT)


def opens(
    model: str,
    *ids: int,
    asked: Request = CHAT,
    prefer: str = "",
    held: int = 0,
    avoid: frozenset[str] = frozenset(),
    rule: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Open:
    """A call with the prompt and these ids of the answer; with `rule`, up to the gate's firing."""
    body = {"temperature": 0, "prompt": (*PROMPT, *ids), "return_token_ids": True, **fields}
    if rule is not None:
        body["vllm_xargs"] = {f"tandem_gate{name}": value for name, value in rule.items()}
        body["stop_token_ids"] = (*body.get("stop_token_ids", ()), GATE)
    body.setdefault("max_tokens", 20 - len(ids))
    sent = asked.asking(body, Surface.COMPLETIONS, stream=True)
    return Open(model, sent, avoid=avoid, share=TURN_SHARE, prefer=prefer, held=held)


def writes(of: Attempt, text: str, *ids: int) -> Delta:
    """The attempt's engine comes up with these tokens."""
    return Delta(of, text, tuple(Token("", each) for each in ids))


def shows(of: Attempt, text: str, *ids: int, choice: int = 0) -> Emit:
    """They are passed on; the last one of them has the text."""
    tokens = [Token("", each) for each in ids]
    if text and tokens:
        tokens[-1] = replace(tokens[-1], text=text)
    return Emit(of, text, tuple(tokens), choice)


def candidate(of: Attempt, best: int) -> Delta:
    """The reserved token, beside which the engine tells what it would have written itself."""
    top = (Alternative(f"token_id:{GATE}", -9.0), Alternative(f"token_id:{best}", -0.2))
    return Delta(of, "", (Token(f"token_id:{GATE}", GATE, -9.0, top),))


def fired(of: Attempt) -> Finished:
    """The gate stopped the call."""
    return Finished(of, "stop", GATE, Usage(3, 1))


def spent(of: Attempt) -> Finished:
    """The call's tokens are used up."""
    return Finished(of, "length", None, Usage(3, 1))


def over(of: Attempt) -> Finished:
    """The model is done."""
    return Finished(of, "stop", None, Usage(3, 1))


def ends(of: Attempt, text: str, finish: Finished, choice: int = 0) -> Emit:
    """The choice ends."""
    return Emit(of, text, (), choice, finish)


def wait(*attempts: Attempt) -> Next:
    """For the first of these."""
    return Next(attempts)
