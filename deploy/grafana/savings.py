"""What is spent, what the large model alone would have cost, and who writes the answers."""

from __future__ import annotations

from deploy.grafana.board import Board
from deploy.grafana.panel import Kind, Panel, above, below
from deploy.grafana.queries import over_range, per_second, pick, share

__all__ = ["SAVINGS"]

COST = pick("tandem_cost_usd_total", "policy")
COST_BY_MODEL = pick("tandem_cost_usd_total", "policy", "model")
ALONE = pick("tandem_idealised_cost_usd_total", "policy", "model")
BUSY = pick("tandem_idealised_accelerator_seconds_total", "policy", "model")
BASELINE = pick("tandem_baseline_usd_total", "policy")
ANSWERED = pick("tandem_answer_tokens_total", "policy")
TOKENS = pick("tandem_tokens_total", "policy", "model")
WRITTEN = pick("tandem_tokens_total", "policy", where='direction="completion"')
PROMPTS = pick("tandem_tokens_total", "policy", "model", where='direction="prompt"')
CACHED = pick("tandem_tokens_total", "policy", "model", where='direction="cached"')
REQUESTS = pick("tandem_requests_total", "policy")


def an_hour(selector: str, *labels: str) -> str:
    """Dollars an hour."""
    return f"3600 * {per_second(selector, *labels)}"


RANGE = (
    Panel(
        title="Spent",
        about="All attempts in the range that is chosen, at the configured prices: drafts and "
        "lost hedges too. If it is not what you are billed, correct the prices in the config.",
        queries={"": over_range(COST)},
        unit="currencyUSD",
        kind=Kind.NUMBER,
        width=6,
        instant=True,
    ),
    Panel(
        title="On the large model alone",
        about="What the same answers would have cost on the baseline model alone. The baseline is "
        "the config's, and the dearest model if it names none.",
        queries={"": over_range(BASELINE)},
        unit="currencyUSD",
        kind=Kind.NUMBER,
        width=6,
        instant=True,
    ),
    Panel(
        title="Saved",
        about="The difference of the two. Below zero the policies cost more than they spare: see "
        "which one, below, and what it throws away.",
        queries={"": f"{over_range(BASELINE)} - {over_range(COST)}"},
        unit="currencyUSD",
        kind=Kind.NUMBER,
        steps=below(0),
        width=6,
        instant=True,
    ),
    Panel(
        title="Saved, share",
        about="The part of the large model's cost that was spared. Judge it beside quality: the "
        "policies board shows what a shadow expects of answers.",
        queries={"": f"1 - {over_range(COST)} / {over_range(BASELINE)}"},
        unit="percentunit",
        kind=Kind.NUMBER,
        steps=below(0, 0.1),
        width=6,
        instant=True,
    ),
)
MONEY = (
    Panel(
        title="Spend by model",
        about="Dollars an hour. If the dear model grows and traffic does not, a policy sends it "
        "more: look at the reasons on the policies board.",
        queries={"{{model}}": an_hour(COST_BY_MODEL, "model")},
        unit="currencyUSD",
        kind=Kind.STACKED,
    ),
    Panel(
        title="Spend by policy",
        about="Dollars an hour by the policy, or the model named directly, that was asked.",
        queries={"{{policy}}": an_hour(COST, "policy")},
        unit="currencyUSD",
        kind=Kind.STACKED,
    ),
    Panel(
        title="Spend and the large model alone",
        about="Dollars an hour. Between the lines lies what is saved; where they meet, nothing is.",
        queries={"spent": an_hour(COST), "large model alone": an_hour(BASELINE)},
        unit="currencyUSD",
    ),
    Panel(
        title="Saved by policy",
        about="Dollars an hour against the large model alone. Below zero a policy pays for more "
        "than it spares: raise its threshold, or take its drafts away.",
        queries={"{{policy}}": f"{an_hour(BASELINE, 'policy')} - {an_hour(COST, 'policy')}"},
        unit="currencyUSD",
        steps=below(0),
    ),
    Panel(
        title="Saved share by policy",
        about="The part of the large model's cost that each policy spares. A name that is the "
        "large model itself stands at zero, and rightly.",
        queries={
            "{{policy}}": f"1 - {per_second(COST, 'policy')} / {per_second(BASELINE, 'policy')}"
        },
        unit="percentunit",
        steps=below(0),
    ),
    Panel(
        title="Spend by idealised runtime",
        about="Dollars an hour by model, had each call been served alone: accelerator-seconds "
        "times the price of an hour. Far above what is spent, the prices are too low for "
        "this hardware, or batching pays.",
        queries={"{{model}}": an_hour(ALONE, "model")},
        unit="currencyUSD",
        kind=Kind.STACKED,
        none="no model has `usd_per_hour`",
    ),
    Panel(
        title="Accelerators in use, idealised",
        about="Accelerator-seconds per second by model, each call served alone. Over the number "
        "that you run, it says how much of them batching saves.",
        queries={"{{model}}": per_second(BUSY, "model")},
        unit="none",
        kind=Kind.STACKED,
        none="no model has `idealised`",
    ),
    Panel(
        title="Cost of a thousand requests",
        about="By policy. It moves with the length of prompts and answers too: compare it with "
        "the same hour of another day before changing anything.",
        queries={
            "{{policy}}": f"1000 * {per_second(COST, 'policy')} / {per_second(REQUESTS, 'policy')}"
        },
        unit="currencyUSD",
    ),
)
WRITERS = (
    Panel(
        title="Share of answers by model",
        about="Whose tokens clients read. The large model's part is what quality is paid by; if "
        "it creeps up, traffic became harder or a threshold is off.",
        queries={"{{model}}": per_second(ANSWERED, "model")},
        unit="none",
        kind=Kind.SHARES,
    ),
    Panel(
        title="Generated for nothing",
        about="The share of generated tokens that no client got: drafts, grades, lost hedges. "
        "Much of it in a cascade means that drafts are mostly refused: send less to it, or lower "
        "its bar.",
        queries={
            "{{policy}}": "1 - "
            + share(per_second(ANSWERED, "policy"), per_second(WRITTEN, "policy"))
        },
        unit="percentunit",
        steps=above(0.5),
    ),
    Panel(
        title="Prompts from the prefix cache",
        about="The share of prompt tokens that backends had in their prefix cache. If it falls, "
        "sessions are spread over backends: keep them sticky, or give the cache more memory.",
        queries={"{{model}}": share(per_second(CACHED, "model"), per_second(PROMPTS, "model"))},
        unit="percentunit",
    ),
    Panel(
        title="Tokens by direction",
        about="Tokens a second of all attempts; cached is part of prompt. It says what the load "
        "is made of: long prompts want caches, long answers want decoding.",
        queries={"{{direction}}": per_second(TOKENS, "direction")},
        unit="none",
    ),
    Panel(
        title="Tokens that Tandem counted itself",
        about="The share of completion tokens of answers that were cut short before the backend "
        "told their number. Costs of these are estimates; if it is much, find why streams break.",
        queries={
            "{{policy}}": share(
                per_second(pick("tandem_estimated_tokens_total", "policy"), "policy"),
                per_second(WRITTEN, "policy"),
            )
        },
        unit="percentunit",
    ),
    Panel(
        title="Streams without usage",
        about="Streams a second that ended well and did not tell their tokens: they are missing "
        "from all figures here. The backend does not know stream_options.include_usage.",
        queries={
            "{{model}}": per_second(pick("tandem_streams_without_usage_total", "model"), "model")
        },
        unit="reqps",
        none="none: every figure is complete",
        steps=above(0.01),
    ),
)

SAVINGS = Board(
    name="savings",
    title="Tandem: cost and savings",
    about="What is spent, what the large model alone would have cost, and who writes the answers.",
    rows={"In this range": RANGE, "Money": MONEY, "Tokens": WRITERS},
    chosen={
        "policy": ("tandem_requests_total", "policy"),
        "model": ("tandem_backend_state", "model"),
    },
    since="now-24h",
)
