"""The backends: health and breakers, load, how their calls end, and sleep."""

from __future__ import annotations

from deploy.grafana.board import Board
from deploy.grafana.panel import Colour, Kind, Panel, above
from deploy.grafana.queries import (
    bucket_quantile,
    or_zero,
    over_range,
    per_second,
    pick,
    share,
    split,
)

__all__ = ["FLEET"]

STATE = pick("tandem_backend_state", "model")
ATTEMPTS = pick("tandem_attempts_total", "model")
BAD = pick("tandem_attempts_total", "model", where='outcome=~"backend|busy|gateway"')
AWAKE = pick("tandem_backend_awake", "model")
SLEEP = pick("tandem_sleep_changes_total", "model")
WAITING = pick("tandem_waiting_for_wake", "model")
QUEUED = pick("tandem_queued", "model")
BACKEND = "{{model}} {{backend}}"
WORST = {
    "healthy": Colour.GOOD,
    "probing": Colour.PLAIN,
    "open": Colour.LOOK,
    "unhealthy": Colour.ACT,
}
"""States of a backend, the worse the later."""


def in_state(state: str) -> str:
    """Of every backend, whether it is in this state."""
    return pick("tandem_backend_state", "model", where=f'state="{state}"')


def worst() -> str:
    """Of every backend the worst state that any gateway sees it in, as its place in `WORST`."""
    places = " or ".join(f"{in_state(state)} * {place}" for place, state in enumerate(WORST))
    return f"max by (model, backend) ({places})"


NOW = (
    Panel(
        title="Backends",
        about="Those that are configured, over all gateways that are chosen; each is counted once.",
        queries={"": f"count(count by (model, backend) ({STATE}))"},
        unit="none",
        kind=Kind.NUMBER,
        width=4,
        steps=((None, Colour.PLAIN),),
    ),
    Panel(
        title="Unhealthy",
        about="Backends whose health check fails in the eyes of at least one gateway. Ask the "
        "server itself: its /health, its log, its GPU.",
        queries={"": or_zero(f"count(max by (model, backend) ({in_state('unhealthy')}) == 1)")},
        unit="none",
        kind=Kind.NUMBER,
        width=4,
        steps=above(1),
    ),
    Panel(
        title="Breakers open",
        about="Backends that pass their health check and fail their calls; the gateway leaves "
        "them alone for a while and tries again. Its log says what the calls ended with.",
        queries={"": or_zero(f"count(max by (model, backend) ({in_state('open')}) == 1)")},
        unit="none",
        kind=Kind.NUMBER,
        width=4,
        steps=above(1),
    ),
    Panel(
        title="Not awake",
        about="Backends that sleep, wake or make room. Many while calls wait: their models share "
        "too little memory.",
        queries={"": or_zero(f"count(min by (model, backend) ({AWAKE}) == 0)")},
        unit="none",
        kind=Kind.NUMBER,
        width=4,
        steps=((None, Colour.PLAIN),),
    ),
    Panel(
        title="Waiting for a wake",
        about="Calls that wait for a server to wake. If it stays above zero, let residence be "
        "shorter, or keep the model awake.",
        queries={"": or_zero(f"sum({WAITING})")},
        unit="none",
        kind=Kind.NUMBER,
        width=4,
        steps=above(1),
    ),
    Panel(
        title="Calls that fail",
        about="The share of calls to backends that failed by their fault or for want of room. "
        "Policies try elsewhere, so clients may see less of it; the panels below say where.",
        queries={"": share(per_second(BAD), per_second(ATTEMPTS))},
        unit="percentunit",
        kind=Kind.NUMBER,
        width=4,
        steps=above(0.01, 0.05),
    ),
)
HEALTH = (
    Panel(
        title="States",
        about="The worst state that any gateway sees each backend in. One that flaps between open "
        "and healthy passes its check and fails real calls: restart it. One that only some "
        "gateways see as bad has a network between them.",
        queries={BACKEND: worst()},
        kind=Kind.STATES,
        width=12,
        states={place: (name, colour) for place, (name, colour) in enumerate(WORST.items())},
    ),
    Panel(
        title="Changes of health",
        about="How often a backend's health check began to fail, or to pass, in this range. One "
        "that comes and goes: look at what its host does at these times. Breakers are not among "
        "them; the panel of states shows those.",
        queries={
            f"{BACKEND} {{{{state}}}}": over_range(
                pick("tandem_backend_changes_total", "model"), "model", "backend", "state"
            )
        },
        unit="none",
        none="no changes",
        width=12,
    ),
    Panel(
        title="Calls by outcome",
        about="ok, or whose fault it was. busy: the backend refused for want of room, so add "
        "one, or bound what is sent to it; gone: nobody wanted the answer any more.",
        queries={"{{outcome}}": per_second(ATTEMPTS, "outcome")},
        unit="reqps",
        kind=Kind.STACKED,
    ),
    Panel(
        title="Failing calls by backend",
        about="The share of a backend's calls that failed by its fault or for want of room. One "
        "among many: that host. All at once: what they share, the network or a new release.",
        queries={
            BACKEND: f"{per_second(BAD, 'model', 'backend')}"
            f" / {per_second(ATTEMPTS, 'model', 'backend')}"
        },
        unit="percentunit",
        none="none fails",
        steps=above(0.01, 0.05),
    ),
    Panel(
        title="Calls for a request",
        about="Calls to backends for each request to a policy, over all of them. One is a plain "
        "proxy; drafts, hedges, retries and hand-offs add to it. A jump is a storm of retries.",
        queries={
            "calls": f"{per_second(pick('tandem_attempts_total'))}"
            f" / {per_second(pick('tandem_requests_total'))}"
        },
        unit="none",
    ),
)
LOAD = (
    Panel(
        title="In flight by backend",
        about="Calls that each is answering, over all gateways. Backends of one model should be "
        "near each other; one that hoards calls answers slowly.",
        queries={
            BACKEND: f"sum by (model, backend) ({pick('tandem_in_flight', 'model')})",
        },
        unit="none",
    ),
    Panel(
        title="Calls by backend",
        about="Calls a second that ended. Unequal at equal hosts: sessions stick to their prefix "
        "caches, or a host is slower.",
        queries={BACKEND: per_second(ATTEMPTS, "model", "backend")},
        unit="reqps",
    ),
    Panel(
        title="Share of calls by model",
        about="Which models the traffic lands on, drafts and retries included. A model that gets "
        "nothing need not run.",
        queries={"{{model}}": split(per_second(ATTEMPTS, "model"), per_second(ATTEMPTS))},
        unit="percentunit",
    ),
)
QUEUE = (
    Panel(
        title="Waiting for a place",
        about="Requests in line, where a model has a limit (queue). A line that never empties is "
        "overload and no burst: add a server, or let an overload policy take the cheaper model.",
        queries={"{{model}} {{priority}}": f"sum by (model, priority) ({QUEUED})"},
        unit="none",
    ),
    Panel(
        title="Waits for a place, p95",
        about="How long those waited who had to, in the end served or not. It is part of the time "
        "to the first token. Above queue.longest nobody waits.",
        queries={
            "{{model}} {{priority}}": bucket_quantile(
                0.95, pick("tandem_queue_seconds_bucket", "model"), "model", "priority"
            )
        },
        unit="s",
        none="nobody waits",
    ),
    Panel(
        title="Shed",
        about="Requests a second that got no place with this model; another may have served them. "
        "full: the line is; slow: the wait would be too long; timeout: it was. Many timeouts: "
        "answers have become longer than they were.",
        queries={
            "{{model}} {{priority}} {{why}}": per_second(
                pick("tandem_shed_total", "model"), "model", "priority", "why"
            )
        },
        unit="reqps",
        none="none is shed",
        steps=above(0.1),
    ),
)
SLEEPING = (
    Panel(
        title="Awake",
        about="Which servers can get calls. Two that take turns every few seconds want more "
        "residence, or more memory.",
        queries={BACKEND: f"min by (model, backend) ({AWAKE})"},
        kind=Kind.STATES,
        states={0: ("not awake", Colour.PLAIN), 1: ("awake", Colour.GOOD)},
    ),
    Panel(
        title="Waiting for a wake, by model",
        about="Calls that hold no backend yet. They wait for others' residence and for the wake "
        "itself; the limit first_token ends them.",
        queries={"{{model}}": f"sum by (model) ({WAITING})"},
        unit="none",
    ),
    Panel(
        title="Wakes, p95",
        about="How long it takes to wake a server. Level 2 reads the weights from disk again: if "
        "that is too slow, use level 1, or a faster disk.",
        queries={
            "{{model}}": bucket_quantile(0.95, pick("tandem_wake_seconds_bucket", "model"), "model")
        },
        unit="s",
        none="none woke",
    ),
    Panel(
        title="Wakes and sleeps in this range",
        about="wake_failed and sleep_failed say that a server would not: read its log, and check "
        "that it was started with its sleep mode.",
        queries={"{{model}} {{change}}": over_range(SLEEP, "model", "change")},
        unit="none",
        none="no server sleeps",
    ),
)

PROCESSES = (
    Panel(
        title="Processes",
        about="Those that act as one: the workers of all replicas that share a store, as each "
        "replica sees them. Without a store every replica counts its own.",
        queries={"{{instance}}": pick("tandem_members")},
        unit="none",
    ),
    Panel(
        title="Behind",
        about="Processes that do not serve the newest revision. For a second after a swap that is "
        "so; for longer, GET /admin/revisions says which and why.",
        queries={"{{instance}}": pick("tandem_members_behind")},
        unit="none",
        steps=above(1),
    ),
    Panel(
        title="Store",
        about="Whether the store that they share can be reached. Without it everything goes on, "
        "but for changes of the configuration and keys whose lease of money is used up.",
        queries={"{{instance}} {{kind}}": pick("tandem_store_up")},
        kind=Kind.STATES,
        states={0: ("gone", Colour.ACT), 1: ("there", Colour.GOOD)},
    ),
)

FLEET = Board(
    name="fleet",
    title="Tandem: fleet",
    about="The backends: health and breakers, load, how their calls end, and sleep; and the "
    "gateway's own processes.",
    rows={
        "Now": NOW,
        "Health": HEALTH,
        "Load": LOAD,
        "Queue": QUEUE,
        "Sleep": SLEEPING,
        "Processes": PROCESSES,
    },
    chosen={"model": ("tandem_backend_state", "model")},
)
