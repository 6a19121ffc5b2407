"""What policies decide, and why; what another one would decide; and which revision serves."""

from __future__ import annotations

from deploy.grafana.board import Board
from deploy.grafana.panel import Colour, Kind, Panel, above
from deploy.grafana.queries import over_range, per_second, pick, share, split

__all__ = ["POLICIES"]

REQUESTS = pick("tandem_requests_total", "policy")
REASONS = pick("tandem_reasons_total", "policy")
ANSWERED = pick("tandem_answer_tokens_total", "policy")
LARGE = pick("tandem_answer_tokens_total", "policy", "large")
HANDOFFS = pick("tandem_handoffs_total", "policy")
COMPARED = pick("tandem_shadow_decisions_total", "policy")
AGREED = pick("tandem_shadow_decisions_total", "policy", where='agreed="true"')
BOTH = ("policy", "shadow")
PAIR = "{{shadow}} beside {{policy}}"


def shadow(name: str) -> str:
    """The rate of one of the shadow's sums."""
    return per_second(pick(name, "policy"), *BOTH)


DECISIONS = (
    Panel(
        title="Decisions by policy",
        about="Requests a second that each policy decided. Compare with the reasons beside it: "
        "requests without a reason were decided by a policy that has none to give.",
        queries={"{{policy}}": per_second(REQUESTS, "policy")},
        unit="reqps",
        kind=Kind.STACKED,
    ),
    Panel(
        title="Reasons",
        about="Why, in the policy's own words; docs/policies.md explains each. Watch for words "
        "that say it could not do its work: a lost model, an ask it abstains from.",
        queries={"{{policy}}: {{reason}}": per_second(REASONS, "policy", "reason")},
        unit="reqps",
        kind=Kind.STACKED,
        none="no policy gave a reason",
    ),
    Panel(
        title="Reasons, share",
        about="The same as shares of each policy's requests. A share that shifts without a new "
        "revision means that traffic has changed: judge the policy anew (tandem eval).",
        queries={
            "{{policy}}: {{reason}}": split(
                per_second(REASONS, "policy", "reason"), per_second(REQUESTS, "policy"), "policy"
            )
        },
        unit="percentunit",
        none="no policy gave a reason",
    ),
    Panel(
        title="Large model's share of tokens",
        about="Of the tokens that clients got, the part that the model chosen above as large "
        "wrote. This is the dial: a threshold or a budget moves it.",
        queries={"{{policy}}": share(per_second(LARGE, "policy"), per_second(ANSWERED, "policy"))},
        unit="percentunit",
    ),
    Panel(
        title="Hand-offs in 100 tokens",
        about="How often one model goes on with what another began. Each costs a call: if answers "
        "are slow and this is high, let the rule fire less often, or hand over by steps.",
        queries={
            "{{policy}}": f"100 * {per_second(HANDOFFS, 'policy')}"
            f" / {per_second(ANSWERED, 'policy')}"
        },
        unit="none",
        none="no policy of two models",
    ),
    Panel(
        title="Who writes, by policy",
        about="Tokens a second that clients got, by policy and model. A policy whose small model "
        "writes nothing is not worth its name: see its reasons.",
        queries={"{{policy}}: {{model}}": per_second(ANSWERED, "policy", "model")},
        unit="none",
        kind=Kind.STACKED,
    ),
)
SHADOW = (
    Panel(
        title="Agreement",
        about="The share of requests that the shadow would have sent to the same place. Near one, "
        "a swap changes little; far from it, look at both differences here before you swap.",
        queries={PAIR: share(per_second(AGREED, *BOTH), per_second(COMPARED, *BOTH))},
        unit="percentunit",
        none="no shadow configured",
    ),
    Panel(
        title="Cost, shadow minus served",
        about="Dollars an hour over the same requests. Below zero the shadow is cheaper. It knows "
        "only requests that both could price: see what it could not, beside.",
        queries={
            PAIR: f"3600 * ({shadow('tandem_shadow_cost_usd_total')}"
            f" - {shadow('tandem_shadow_served_usd_total')})"
        },
        unit="currencyUSD",
        none="no shadow configured",
    ),
    Panel(
        title="Expected score, shadow minus served",
        about="What the policies themselves expect, on a scale of 0 to 1, averaged over the same "
        "requests. It is a forecast: confirm it with feedback and tandem eval.",
        queries={
            PAIR: f"({shadow('tandem_shadow_expected_score_total')}"
            f" - {shadow('tandem_shadow_served_expected_score_total')})"
            f" / {shadow('tandem_shadow_scored_total')}"
        },
        unit="none",
        none="no policy here expects a score",
    ),
    Panel(
        title="Comparisons that were not made",
        about="dropped: the queue was full, so lower decisions.share or give the process a core. "
        "error: one of the two policies raised one; the gateway's log has it.",
        queries={
            f"{PAIR}: {{{{why}}}}": per_second(
                pick("tandem_shadow_failures_total", "policy"), *BOTH, "why"
            )
        },
        unit="reqps",
        none="none was missed",
        steps=above(0.01),
    ),
    Panel(
        title="Comparisons without a price",
        about="The share that is missing from the difference in cost: the shadow would ask a "
        "policy that itself asks models, the answer failed, or its tokens are unknown.",
        queries={
            PAIR: share(
                per_second(pick("tandem_shadow_unpriced_total", "policy"), *BOTH),
                per_second(COMPARED, *BOTH),
            )
        },
        unit="percentunit",
        none="no shadow configured",
    ),
    Panel(
        title="The log of decisions",
        about="Lines a second, by what became of them: decisions, and scores of answers. Any that "
        "are dropped or failed are lost to training: look at the disk and the gateway's log.",
        queries={
            "decisions {{outcome}}": per_second(pick("tandem_decisions_total"), "outcome"),
            "feedback {{outcome}}": per_second(pick("tandem_feedback_total"), "outcome"),
        },
        unit="reqps",
        none="no log configured",
    ),
)
REVISION = (
    Panel(
        title="Revision that serves",
        about="By process; marks on all boards show when one began to serve. Processes that "
        "differ for longer than a deployment takes have missed a change: send it to them again.",
        queries={"{{instance}}": pick("tandem_revision")},
        unit="none",
        width=12,
    ),
    Panel(
        title="Content that serves",
        about="How many processes serve each configuration, by its ETag. More than one for long: "
        "half of the clients get another policy than the other half.",
        queries={"{{etag}}": f"count by (etag) ({pick('tandem_revision_info')})"},
        unit="none",
        kind=Kind.STACKED,
        width=6,
    ),
    Panel(
        title="Activations in this range",
        about="Starts, swaps and rollbacks. More than you made: somebody else did, or processes "
        "restart. The gateway's log says which.",
        queries={"": over_range(pick("tandem_revisions_activated_total"))},
        unit="none",
        kind=Kind.NUMBER,
        width=6,
        instant=True,
        steps=((None, Colour.PLAIN),),
    ),
)

POLICIES = Board(
    name="policies",
    title="Tandem: policies",
    about="What policies decide and why, what a shadow would decide, and which revision serves.",
    rows={"Decisions": DECISIONS, "Shadow and log": SHADOW, "Revisions": REVISION},
    chosen={
        "policy": ("tandem_requests_total", "policy"),
        "large": ("tandem_backend_state", "model"),
    },
    one_of=frozenset({"large"}),
    since="now-6h",
)
