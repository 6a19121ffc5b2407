"""Playbooks: the test of a policy reads like a conversation (after mitmproxy's).

    small = attempt("small", "a:1")
    (
        Playbook(Direct(model="small"), request, fleet)
        .asks(Open("small", request))
        .hears(small)
        .asks(Relay(small))
        .hears(finished(small))
        .ends(finished(small))
    )

`asks` says what the policy must ask next, `hears` what it is told, `ends` how it must end. Steps
that get no answer (`Note`, `Emit`, `Close`) are followed by the next `asks`. The policy's generator
is driven directly: no loop, no socket, no clock. If something else comes, the error shows the whole
conversation up to there.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self

from router.fleet import Fleet
from router.steps import Close, Compute, Emit, Ended, Note, Policy, Request, Step

UNANSWERED = (Note, Emit, Close)


class Playbook:
    """One conversation with one policy."""

    def __init__(self, policy: Policy, request: Request, fleet: Fleet) -> None:
        self._policy = policy
        self._steps = policy.route(request, fleet)
        self._transcript: list[str] = []
        self._asked: Step | None = None
        self._ended: Ended | None = None
        self._advance(None)

    def asks(self, *expected: Step) -> Self:
        """The policy asks for these steps, one after the other."""
        for step in expected:
            self._move_on(f"to ask {step}")
            if self._asked != step:
                self._fail(f"to ask {step}")
            self._transcript.append(f"asks  {step}")
            self._heard = False
        return self

    def hears(self, reply: Any) -> Self:
        """Answer the step that was asked last."""
        if self._heard:
            self._fail("to be asked before it is told something: say .asks(...) first")
        self._transcript.append(f"hears {reply}")
        self._advance(reply)
        return self

    def computes(self) -> Self:
        """The policy asks for some CPU work, which is done here and now."""
        self._move_on("to compute")
        if not isinstance(self._asked, Compute):
            self._fail("to compute")
        self._heard = False
        return self.hears(self._asked.function(*self._asked.arguments))

    def ends(self, expected: Ended) -> None:
        """The policy is done, with this outcome."""
        self._move_on(f"to end with {expected}")
        if self._ended != expected:
            self._fail(f"to end with {expected}")

    def _move_on(self, expected: str) -> None:
        if self._heard:
            return
        if not isinstance(self._asked, UNANSWERED):
            self._fail(f"{expected}, but it waits for an answer: say .hears(...) first")
        self._advance(None)

    def _advance(self, reply: Any) -> None:
        self._heard = True
        try:
            self._asked = self._steps.send(reply)
        except StopIteration as stop:
            self._asked, self._ended = None, stop.value
        except Exception as error:
            error.add_note(self._so_far())
            raise

    def _so_far(self) -> str:
        return "\n    ".join([f"conversation with {self._policy}:", *self._transcript])

    def _fail(self, expected: str) -> NoReturn:
        now = f"ended with {self._ended}" if self._asked is None else f"asked {self._asked}"
        raise AssertionError(f"{self._so_far()}\nexpected it {expected}\nbut it {now}")
