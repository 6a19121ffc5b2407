"""Refusals: what the engine itself has to say no to, and the error of a policy that broke a rule.

Pure: from a step and a pool to a `Fault` in words that tell an operator what to look at.
"""

from __future__ import annotations

import sys
import traceback
from math import ceil

from router.backend import Backend
from router.faults import Blame, Fault
from router.observe import Queued
from router.pool import Pool
from router.sleep_plan import NEVER
from router.steps import Open, Score


class PolicyError(Exception):
    """A policy broke the rules of `router.steps`; the message says which."""


def broke(policy: str) -> PolicyError:
    """The policy, or a function of its own, raised what is being handled now: shown on stderr."""
    traceback.print_exc(file=sys.stderr)
    return PolicyError(f'the policy "{policy}" broke; the gateway\'s log has the details')


def nowhere(pool: Pool, avoid: frozenset[str]) -> Fault:
    """No backend of `pool` outside `avoid` can take a call now."""
    states = ", ".join(f"{b.name} is {b.state}" for b in pool.backends if b.name not in avoid)
    why = states or "all of them were tried"
    message = f'no backend of the model "{pool.name}" can take the request: {why}'
    return Fault(Blame.BACKEND, message, 503, "no_backend", retry_after=1.0)


def not_served(step: Open) -> Fault:
    """The model's backends do not have the API that the request came by."""
    message = f'the model "{step.model}" does not serve /v1/{step.request.surface.value}'
    return Fault(Blame.CLIENT, message, 404, "unsupported_endpoint", "model", other_model=True)


def no_scores(step: Score, path: str) -> Fault:
    """A backend of the model does not have the API by which it was asked for scores."""
    message = (
        f'the model "{step.model}" has no {path} (404): a reward model tells scores there, served '
        "with vLLM's --runner pooling"
    )
    return Fault(Blame.CLIENT, message, 404, "unsupported_endpoint", "model", other_model=True)


def no_room(pool: Pool, backend: Backend) -> Fault | None:
    """Why a call cannot even wait for `backend`, which sleeps, to be woken; None if it can."""
    rest = backend.rest
    if pool.full:
        message = f'too many requests wait for the model "{pool.name}" to wake'
        return Fault(Blame.BUSY, message, 503, "asleep_queue_full", retry_after=rest.retry_after)
    if rest.expected < NEVER:
        return None
    message = (
        f'the model "{pool.name}" sleeps, and no server on its host can be put to sleep for it'
    )
    return Fault(Blame.BUSY, message, 503, "asleep_no_room", retry_after=rest.retry_after)


def still_asleep(backend: Backend, seconds: float) -> Fault:
    """A call has waited so long for a server to wake. It is no fault of the server's."""
    message = f"{backend.name} was not awake within {seconds:.3g} s ({backend.rest.state})"
    retry_after = backend.rest.retry_after
    return Fault(Blame.BUSY, message, 503, "asleep_timeout", retry_after=retry_after)


def shed(queued: Queued, waiting: int, retry_after: float) -> Fault:
    """A request that got no place with a model's backends, where so many others wait."""
    told = f'too many requests for the model "{queued.model}" ({waiting} wait): '
    again = f"; try again in {ceil(retry_after)} s"
    match queued.shed:
        case "timeout":
            told += f"no place came free within {queued.seconds:.3g} s" + again
            return Fault(Blame.BUSY, told, 503, "queue_timeout", retry_after=retry_after)
        case "slow":
            told += "a place would come free too late" + again
            return Fault(Blame.BUSY, told, 503, "queue_slow", retry_after=retry_after)
        case _:
            told += "no place is free" + again
            return Fault(Blame.BUSY, told, 503, "queue_full", retry_after=retry_after)


def too_late() -> Fault:
    """The time in which an answer could have begun is over."""
    return Fault(Blame.GATEWAY, "the request's deadline has passed", 504, "deadline")
