"""Is all well? Requests, errors by whose fault, latency, the gateway's own share, load."""

from __future__ import annotations

from deploy.grafana.board import Board
from deploy.grafana.panel import Kind, Panel, above
from deploy.grafana.queries import bucket_quantile, or_zero, per_second, pick, share, split

__all__ = ["OVERVIEW"]

REQUESTS = pick("tandem_requests_total", "policy")
ERRORS = pick("tandem_errors_total", "policy")
OURS = pick("tandem_errors_total", "policy", where='fault=~"backend|gateway|busy"')
FIRST = pick("tandem_time_to_first_token_seconds_bucket", "policy")
WHOLE = pick("tandem_request_seconds_bucket", "policy")
GAPS = pick("tandem_inter_token_latency_seconds_bucket", "policy")
ALONE = pick("tandem_idealised_request_seconds_bucket", "policy")
OVERHEAD = pick("tandem_overhead_seconds_bucket", "policy")
LAG = pick("tandem_event_loop_lag_seconds_bucket")
USABLE = pick("tandem_backend_state", where='state=~"healthy|probing"')
WITHOUT = f"count(min by (model) (sum by (job, instance, model) ({USABLE})) == 0)"


def quantiles(selector: str) -> dict[str, str]:
    """The median, and what one request in twenty and in a hundred waits longer than."""
    return {f"p{q * 100:g}": bucket_quantile(q, selector) for q in (0.5, 0.95, 0.99)}


NOW = (
    Panel(
        title="Requests",
        about="Requests a second that reached a policy. If it falls to nothing while clients ask, "
        "look at what is refused, below, and at whatever stands in front of the gateway.",
        queries={"": or_zero(per_second(REQUESTS))},
        unit="reqps",
        kind=Kind.NUMBER,
        width=4,
    ),
    Panel(
        title="Failing, not by the client",
        about="The share of requests that failed by a backend's, the gateway's or nobody's room's "
        "fault. Above 1 %: see which fault below; for backends go on to the fleet board.",
        queries={"": share(per_second(OURS), per_second(REQUESTS))},
        unit="percentunit",
        kind=Kind.NUMBER,
        steps=above(0.01, 0.05),
        width=4,
    ),
    Panel(
        title="First token, p95",
        about="One stream in twenty waits longer for its first token. If it grows with what is in "
        "flight, add backends or send more to the small model; if not, ask the backends' logs.",
        queries={"": bucket_quantile(0.95, FIRST)},
        unit="s",
        kind=Kind.NUMBER,
        steps=above(5, 20),
        width=4,
        none="no streams",
    ),
    Panel(
        title="Gateway's own time, p99",
        about="What the gateway itself adds: all but waiting for backends and clients. Above 5 ms: "
        "look at CPU and at the event loop, below; run more processes, or find the slow policy.",
        queries={"": bucket_quantile(0.99, OVERHEAD)},
        unit="s",
        kind=Kind.NUMBER,
        steps=above(0.002, 0.005),
        width=4,
    ),
    Panel(
        title="In flight",
        about="Calls that backends are answering now, over all gateways. Compare it with what the "
        "backends can hold (vLLM's --max-num-seqs times their number).",
        queries={"": or_zero(f"sum({pick('tandem_in_flight')})")},
        kind=Kind.NUMBER,
        width=4,
    ),
    Panel(
        title="Models without a backend",
        about="Models that a gateway has no usable backend for. Not zero: requests for them fail, "
        "or go elsewhere where the policy knows how. The fleet board says which and why.",
        queries={"": or_zero(WITHOUT)},
        kind=Kind.NUMBER,
        steps=above(act=1),
        width=4,
    ),
)
TRAFFIC = (
    Panel(
        title="Requests by policy",
        about="Who is asked. A policy that vanishes was renamed, or its clients are gone; a "
        "model's own name means that clients pass the policies by.",
        queries={"{{policy}}": per_second(REQUESTS, "policy")},
        unit="reqps",
        kind=Kind.STACKED,
    ),
    Panel(
        title="Requests by status",
        about="The HTTP status of the answers. A stream that breaks off has said 200 before: those "
        "are in the panels of errors and of broken streams.",
        queries={"{{status}}": per_second(REQUESTS, "status")},
        unit="reqps",
        kind=Kind.STACKED,
    ),
    Panel(
        title="Requests by surface",
        about="The paths below /v1/ that are used. One that nobody should use is closed by giving "
        "its models no backend that has it.",
        queries={"{{surface}}": per_second(REQUESTS, "surface")},
        unit="reqps",
        kind=Kind.STACKED,
    ),
    Panel(
        title="Errors by fault",
        about="The share of requests that ended badly, by whose fault: client (tell them), busy "
        "(add room), backend (see the fleet board), gateway (read its log), gone (clients that "
        "left: often too slow an answer).",
        queries={"{{fault}}": split(per_second(ERRORS, "fault"), per_second(REQUESTS))},
        unit="percentunit",
        steps=above(0.01, 0.05),
        none="no errors",
    ),
    Panel(
        title="Streams that broke off",
        about="Streams that began and did not end, clients that left aside, by fault. The backend "
        "died or lied: look for restarts of it at these times, and in the gateway's log.",
        queries={
            "{{policy}} {{fault}}": per_second(
                pick("tandem_stream_truncated_total", "policy"), "policy", "fault"
            )
        },
        unit="reqps",
        none="none broke off",
    ),
    Panel(
        title="Refused before any policy",
        about="Bad bodies, unknown models, keys that are refused or over their limit, by the "
        "error's code. A burst of invalid_api_key is a client with an old key, or somebody trying.",
        queries={"{{code}} ({{fault}})": per_second(pick("tandem_refused_total"), "fault", "code")},
        unit="reqps",
        none="none refused",
    ),
)
LATENCY = (
    Panel(
        title="First token",
        about="Streams: from the request's first byte to the answer's. Compare with the gateway's "
        "own time: the rest is the backends' queues and prompts.",
        queries=quantiles(FIRST),
        unit="s",
        none="no streams",
    ),
    Panel(
        title="First token by policy, p95",
        about="Which policy makes clients wait. One that drafts and thinks again is slower by "
        "nature; if it is too slow, lower what it asks of the large model.",
        queries={"{{policy}}": bucket_quantile(0.95, FIRST, "policy")},
        unit="s",
        none="no streams",
    ),
    Panel(
        title="Between pieces",
        about="Streams: the time between two pieces of an answer. If it grows, backends hold too "
        "many requests at once; for policies of two models it also holds their hand-offs.",
        queries=quantiles(GAPS),
        unit="s",
        none="no streams",
    ),
    Panel(
        title="Whole request",
        about="From the first byte in to the last byte out, streams and whole answers together. "
        "Long answers are slow ones: look at tokens before you blame anybody.",
        queries=quantiles(WHOLE),
        unit="s",
    ),
    Panel(
        title="Whole request, served alone",
        about="What the same requests take on idle servers, from the config's `idealised`. Far "
        "below the panel of whole requests: they wait for each other, so add backends. It moves "
        "with what is asked, and with the policy, never with the load.",
        queries=quantiles(ALONE),
        unit="s",
        none="no model has `idealised`",
    ),
    Panel(
        title="Gateway's own time",
        about="All but waiting for backends, or for the client to read. It is well below a "
        "millisecond when nothing is wrong.",
        queries=quantiles(OVERHEAD),
        unit="s",
        steps=above(0.005),
    ),
    Panel(
        title="Gateway's own time by policy, p99",
        about="A policy that thinks long shows here: request routers embed the prompt. If one is "
        "too slow, give the gateway cores, or run more processes.",
        queries={"{{policy}}": bucket_quantile(0.99, OVERHEAD, "policy")},
        unit="s",
        steps=above(0.005),
    ),
)
PROCESS = (
    Panel(
        title="Event loop lag, p99",
        about="How late the loop wakes up. Above 50 ms something blocks it: every stream of the "
        "process stutters. Look at CPU; a process at one core is full, so run more of them.",
        queries={"{{instance}}": bucket_quantile(0.99, LAG, "instance")},
        unit="s",
        steps=above(0.05),
    ),
    Panel(
        title="In flight by model",
        about="Calls that backends answer now. A model that only rises has backends that do not "
        "finish; see its health on the fleet board.",
        queries={"{{model}}": f"sum by (model) ({pick('tandem_in_flight')})"},
        kind=Kind.STACKED,
    ),
    Panel(
        title="CPU",
        about="Cores that each process uses. One process uses one core for requests, and more "
        "while it embeds prompts: near that, run another.",
        queries={"{{instance}}": per_second(pick("process_cpu_seconds_total"), "instance")},
        unit="none",
    ),
    Panel(
        title="Memory",
        about="Resident memory. It is flat after the first minutes; if it climbs for hours under "
        "the same load, keep its figures and report it.",
        queries={"{{instance}}": pick("process_resident_memory_bytes")},
        unit="bytes",
    ),
    Panel(
        title="Open files",
        about="The share of the allowed file descriptors in use: connections, mostly. Above 80 %: "
        "raise the limit (ulimit -n, LimitNOFILE), or run more processes.",
        queries={
            "{{instance}}": f"{pick('process_open_fds')} / {pick('process_max_fds')}",
        },
        unit="percentunit",
        steps=above(0.8),
    ),
    Panel(
        title="Up since",
        about="When each process started. Times that keep moving are restarts: read the log of "
        "whatever starts it.",
        queries={"{{instance}}": f"{pick('process_start_time_seconds')} * 1000"},
        unit="dateTimeFromNow",
        kind=Kind.NUMBER,
    ),
)

OVERVIEW = Board(
    name="overview",
    title="Tandem: overview",
    about="Is all well: requests, errors by whose fault, latency, the gateway's own share.",
    rows={
        "Now": NOW,
        "Traffic and errors": TRAFFIC,
        "Latency": LATENCY,
        "The gateway itself": PROCESS,
    },
    chosen={"policy": ("tandem_requests_total", "policy")},
)
