"""Experts: the expert that is worth most, under a budget; and somebody, whatever goes wrong."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from policies import TABLE
from policies.composition import opening
from policies.composition.artifact import PriorUsed, read_artifact, write_artifact
from policies.composition.ask import Ask, ask_of
from policies.composition.features import Units
from policies.experts import Budget, Experts, Risk
from router.faults import Blame
from router.fleet import Fleet
from router.references import build_policy
from router.steps import Compute, Embed, Failed, Note, Request, Route, Surface
from tests.fleets import attempt, failed, finished, fleet, request
from tests.playbook import Playbook
from tests.policies.composition.make_artifacts import LEXICAL, REMOTE, Letters, prompts

EXAMPLES: tuple[dict[str, Any], ...] = (
    {"artifact": str(LEXICAL)},
    {"artifact": str(LEXICAL), "sticky": 0.01, "budget": {"params_b": 4}, "fallback": "large"},
    {"artifact": str(LEXICAL), "risk": {"worse": 0.3}, "text": "all"},
    {"artifact": str(LEXICAL), "by": "category", "experts": {"other": "large"}, "text": "user"},
    {"artifact": str(REMOTE), "embedder": "other", "confidence": 0.6, "similarity": 0.2},
)
NONSENSE: tuple[dict[str, Any], ...] = (
    {},
    {"artifact": "no/such/folder"},
    {"artifact": str(LEXICAL), "budget": {}},
    {"artifact": str(LEXICAL), "budget": {"params_b": 2, "usd": 1}},
    {"artifact": str(LEXICAL), "experts": {"tiny": "small"}},
    {"artifact": str(LEXICAL), "embedder": "other"},
    {"artifact": str(REMOTE)},
)
MODELS = ("small", "large", "other")
FLEET = fleet(*MODELS)
SUM, CODE, CHAT = (several[0] for several in prompts().values())


def asking(*said: str, tools: int = 0) -> Request:
    """A conversation, the person first and then by turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(said)]
    return request(body={"messages": messages, **({"tools": [{}] * tools} if tools else {})})


def decision(policy: Experts, asked: Request, seen: Fleet = FLEET) -> tuple[str, str, str]:
    """Reason, detail and target of what it does."""
    steps = policy.route(asked, seen)
    step = next(steps)
    if isinstance(step, Embed):
        rows = Letters().embed(step.texts)
        step = steps.send(tuple(map(tuple, rows.tolist())))
    if isinstance(step, Compute):
        step = steps.send(step.function(*step.arguments))
    assert isinstance(step, Note)
    routed = steps.send(None)
    assert isinstance(routed, Route)
    return step.reason, step.detail, routed.target


def target_of(policy: Experts, asked: Request, seen: Fleet = FLEET) -> tuple[str, str]:
    reason, _, target = decision(policy, asked, seen)
    return reason, target


def without(*models: str) -> Fleet:
    """The fleet, these models not able to answer."""
    views = {n: replace(v, healthy=0) if n in models else v for n, v in FLEET.models.items()}
    return Fleet(MappingProxyType(views))


def changed(model: str, **facts: Any) -> Fleet:
    views = {**FLEET.models, model: replace(FLEET.models[model], **facts)}
    return Fleet(MappingProxyType(views))


def lexical(**settings: Any) -> Experts:
    return Experts(artifact=str(LEXICAL), **settings)


# --------------------------------------------------------------------------------------- reasons


def test_the_whole_conversation_with_the_engine() -> None:
    asked, end = asking(SUM), finished(attempt("small", "a:1"))
    policy = lexical()
    judged = policy.foretold([asked])[0]
    expected = {name: float(judged[f"quality/{name}"]) for name in MODELS}
    assert max(expected, key=expected.__getitem__) == "small"
    detail = decision(policy, asked)[1]
    assert detail.startswith("sums ")
    played = Playbook(lexical(), asked, FLEET).computes()
    played.asks(Note("expert", detail, expected), Route("small", asked, share=0.5))
    played.hears(end).ends(end)


@pytest.mark.parametrize(
    ("text", "target"), [(SUM, "small"), (CODE, "large"), (CHAT, "other")], ids=["s", "c", "t"]
)
def test_each_prompt_goes_to_the_expert_that_is_best_for_it(text: str, target: str) -> None:
    assert target_of(lexical(by="category"), asking(text)) == ("expert", target)


def test_what_is_asked_may_have_been_told_apart_from_documents() -> None:
    mixed = asking(f"{CODE} {CHAT} " * 40 + SUM)
    told = replace(mixed, ask=SUM)
    assert decision(lexical(), told)[1:] == decision(lexical(), asking(SUM))[1:]
    assert decision(lexical(), mixed)[1] != decision(lexical(), told)[1]
    short = changed("small", context=200)
    assert target_of(lexical(), told, short)[1] != "small", "what stands beside it is read too"


def test_who_is_uncertain_gets_the_fallback() -> None:
    policy = lexical(confidence=1.0, fallback="other")
    reason, detail, target = decision(policy, asking("Write a program about rain"))
    assert (reason, target) == ("abstained", "other")
    assert detail.startswith("confidence 0.")


def test_the_fallback_is_the_strongest_expert_where_none_is_named() -> None:
    policy = lexical(confidence=1.0, experts={"large": "small"})
    assert target_of(policy, asking("Write a program about rain")) == ("abstained", "small")


def test_a_prompt_unlike_all_others_is_uncertain() -> None:
    policy = Experts(artifact=str(REMOTE), embedder="small", similarity=0.999, confidence=0.0)
    reason, detail, _ = decision(policy, asking("ΩΩΩΩ"))
    assert reason == "abstained"
    assert detail.startswith("unlike what was trained on, 0.")


def test_an_experts_failure_before_its_first_byte_goes_to_the_fallback() -> None:
    asked, broke = asking(SUM), failed(attempt("small", "a:1"))
    policy, end = lexical(), finished(attempt("large", "b:1"))
    reason, detail, _ = decision(policy, asked)
    note = Note(reason, detail, policy._expected(policy._judge.judge(_ask(asked))))
    played = Playbook(policy, asked, FLEET).asks(note, Route("small", asked, share=0.5))
    played.hears(broke).asks(Note("expert_failed", f"small: {broke.fault.summary}"))
    played.asks(Route("large", asked)).hears(end).ends(end)


@pytest.mark.parametrize(
    "broke",
    [
        failed(attempt("small", "a:1"), sent=True),
        failed(attempt("small", "a:1"), Blame.CLIENT),
    ],
    ids=["sent", "client"],
)
def test_what_no_other_could_mend_is_the_answer(broke: Failed) -> None:
    steps = lexical().route(asking(SUM), FLEET)
    compute = next(steps)
    assert isinstance(compute, Compute)
    steps.send(compute.function(*compute.arguments))
    steps.send(None)
    with pytest.raises(StopIteration) as stop:
        steps.send(broke)
    assert stop.value.value == broke


def test_a_failed_fallback_is_not_asked_twice() -> None:
    asked, broke = asking(CODE), failed(attempt("large", "a:1"))
    policy = lexical()
    reason, detail, target = decision(policy, asked)
    assert (reason, target) == ("expert", "large")
    note = Note(reason, detail, policy._expected(policy._judge.judge(_ask(asked))))
    played = Playbook(policy, asked, FLEET).asks(note, Route("large", asked))
    played.hears(broke).ends(broke)


@pytest.mark.parametrize(
    "asked",
    [
        request(Surface.EMBEDDINGS, body={"input": "What is 3 + 4?"}),
        request(Surface.COMPLETIONS, body={"prompt": [1, 2, 3]}),
        request(body={"messages": []}),
        request(body={"messages": [{"role": "tool", "content": "ok"}]}),
    ],
    ids=["vectors", "ids", "nothing", "tool"],
)
def test_what_holds_no_words_goes_to_the_fallback(asked: Request) -> None:
    end = finished(attempt("large", "a:1"))
    played = Playbook(lexical(), asked, FLEET)
    played.asks(Note("unread", "nobody asked anything in words"), Route("large", asked))
    played.hears(end).ends(end)


# ------------------------------------------------------------------------------ budgets and risk


def shares(policy: Experts) -> Counter[str]:
    """Who gets the prompts of training."""
    asked = [asking(text) for several in prompts().values() for text in several]
    return Counter(str(row["choice"]) for row in policy.foretold(asked))


def test_a_smaller_budget_takes_cheaper_experts() -> None:
    costs = {"small": 1.0, "large": 8.0, "other": 3.0}
    spent = []
    for budget in (1.0, 2.0, 4.0, 8.0):
        counted = shares(lexical(budget=Budget(params_b=budget), confidence=0.0))
        spent.append(sum(costs[n] * times for n, times in counted.items()) / counted.total())
    assert spent[0] == 1.0
    assert spent == sorted(spent)
    assert spent[1] < spent[3]


def test_a_budget_may_be_usd_or_a_share_of_the_strongest() -> None:
    assert set(shares(lexical(budget=Budget(usd=0.001), confidence=0.0))) == {"small"}
    none = shares(lexical(budget=Budget(large_share=0.0), confidence=0.0))
    assert none["large"] == 0
    some = shares(lexical(budget=Budget(large_share=0.3), confidence=0.0))
    assert 0.15 < some["large"] / some.total() < 0.45


def test_a_budget_rules_the_categories_too() -> None:
    cheap = lexical(by="category", budget=Budget(params_b=1.0))
    assert {target_of(cheap, asking(text))[1] for text in (SUM, CODE, CHAT)} == {"small"}


def test_a_strict_risk_bound_takes_the_strongest_and_a_loose_one_the_cheapest() -> None:
    strict = shares(lexical(risk=Risk(worse=0.001), confidence=0.0))
    assert set(strict) == {"large"}
    loose = shares(lexical(risk=Risk(worse=0.9), confidence=0.0))
    assert loose["small"] > 0.7 * loose.total()
    assert loose["large"] == 0


def test_experts_are_called_as_the_gateway_calls_them() -> None:
    policy = lexical(experts={"small": "other"})
    reason, detail, target = decision(policy, asking(SUM))
    assert (reason, target) == ("expert", "other")
    assert "small" not in detail


# -------------------------------------------------------------------------------- circumstances


def test_an_expert_that_is_down_is_not_chosen() -> None:
    assert target_of(lexical(), asking(SUM), without("small")) == ("expert", "large")
    by_map = lexical(by="category")
    assert target_of(by_map, asking(CODE), without("large"))[0] == "expert"
    assert target_of(by_map, asking(CODE), without("large"))[1] != "large"


def test_without_any_expert_the_fallback_is_asked() -> None:
    policy = lexical(fallback="last")
    assert target_of(policy, asking(SUM), without(*MODELS)) == ("unavailable", "last")


def test_an_expert_whose_context_is_too_short_is_not_chosen() -> None:
    asked = asking(SUM, "x" * 4000, SUM)
    assert target_of(lexical(), asked)[1] == "small"
    assert target_of(lexical(), asked, changed("small", context=900))[1] == "large"
    assert target_of(lexical(), asked, changed("small", context=None))[1] == "small"


def test_a_sleeping_expert_must_be_worth_the_wait() -> None:
    asked = asking(SUM)
    assert target_of(lexical(), asked, changed("small", wake=0.5))[1] == "small"
    assert target_of(lexical(), asked, changed("small", wake=60.0))[1] == "large"
    assert target_of(lexical(patience=0.0), asked, changed("small", wake=60.0))[1] == "small"
    never = changed("small", wake=float("inf"))
    assert target_of(lexical(patience=0.0), asked, never)[1] == "large"


def test_a_policy_in_place_of_an_expert_finds_its_own_way() -> None:
    policy = lexical(experts={"small": "careful"})
    assert target_of(policy, asking(SUM), without(*MODELS)) == ("expert", "careful")


# -------------------------------------------------------------------------------- conversations


LONG = "word " * 3000


def test_a_conversation_stays_where_it_is_unless_a_switch_is_worth_it() -> None:
    asked = asking(SUM, LONG, CODE)
    assert target_of(lexical(), asked) == ("expert", "large")
    assert target_of(lexical(sticky=0.0), asked) == ("expert", "large")
    assert target_of(lexical(sticky=1.0), asked) == ("stayed", "small")
    assert target_of(lexical(sticky=1.0), asking(SUM, "7", CODE)) == ("expert", "large")


def test_a_switch_is_remembered_by_the_turns_that_follow() -> None:
    asked = asking(SUM, "7", CODE, LONG, SUM)
    assert target_of(lexical(sticky=0.1), asked) == ("stayed", "large")
    assert target_of(lexical(sticky=0.001), asked) == ("expert", "small")
    assert target_of(lexical(), asked) == ("expert", "small")


def test_every_replica_agrees_whatever_it_has_seen() -> None:
    asked = asking(SUM, LONG, CODE, "yes", CHAT)
    fresh, used = lexical(sticky=0.02), lexical(sticky=0.02)
    for text in (CHAT, CODE, SUM):
        decision(used, asking(text))
    assert decision(fresh, asked) == decision(used, asked) == decision(used, asked)


def test_a_conversation_whose_expert_died_goes_on_elsewhere() -> None:
    asked = asking(SUM, LONG, SUM)
    policy = lexical(sticky=1.0)
    assert target_of(policy, asked)[1] == "small"
    assert target_of(policy, asked, without("small")) == ("expert", "large")


def test_an_uncertain_turn_stays_and_an_uncertain_beginning_does_not() -> None:
    unsure = "Write a program about rain"
    policy = lexical(sticky=0.01, confidence=0.995, fallback="other")
    assert target_of(policy, asking(SUM, "7", unsure)) == ("stayed", "small")
    assert target_of(policy, asking(unsure, "ok", SUM)) == ("expert", "small")
    assert target_of(policy, asking(unsure, "ok", unsure)) == ("abstained", "other")
    elsewhere = target_of(policy, asking(SUM, "7", unsure), without("small"))
    assert elsewhere == ("stayed", "large")


# ------------------------------------------------------------------------ embedders, and memory


def test_a_backend_that_embeds_is_asked_once_for_a_prompt() -> None:
    asked = asking(SUM)
    policy = Experts(artifact=str(REMOTE), embedder="small")
    steps = policy.route(asked, FLEET)
    assert next(steps) == Embed("small", asked, (SUM,))
    assert decision(policy, asked) == decision(policy, asked)
    again = policy.route(asked, FLEET)
    assert isinstance(next(again), Note)


def test_only_the_turns_that_are_new_are_embedded() -> None:
    policy = Experts(artifact=str(REMOTE), embedder="small", sticky=0.01)
    decision(policy, asking(SUM))
    asked = asking(SUM, "7", CODE)
    assert next(policy.route(asked, FLEET)) == Embed("small", asked, (CODE,))


def test_the_same_text_in_another_request_costs_no_second_embedding() -> None:
    policy = Experts(artifact=str(REMOTE), embedder="small")
    decision(policy, asking(SUM))
    assert isinstance(next(policy.route(asking(SUM, tools=3), FLEET)), Compute)


def test_a_failed_embedder_costs_the_choice_and_not_the_answer() -> None:
    asked, broke = asking(SUM), failed(attempt("small", "a:1"))
    end = finished(attempt("large", "a:1"))
    played = Playbook(Experts(artifact=str(REMOTE), embedder="small"), asked, FLEET)
    played.asks(Embed("small", asked, (SUM,))).hears(broke)
    played.asks(Note("unread", f"the embedder failed: {broke.fault.summary}"))
    played.asks(Route("large", asked)).hears(end).ends(end)


@pytest.mark.parametrize("vector", [(1.0, 0.5), (float("nan"),) * 8])
def test_unusable_embeddings_cost_the_choice_and_not_the_answer(vector: tuple[float, ...]) -> None:
    policy = Experts(artifact=str(REMOTE), embedder="small")
    steps = policy.route(asking(SUM), FLEET)
    next(steps)
    compute = steps.send((vector,))
    assert isinstance(compute, Compute)
    note = steps.send(compute.function(*compute.arguments))
    assert isinstance(note, Note)
    assert note.reason == "unread"
    assert "embeddings" in note.detail


def test_what_was_judged_is_remembered() -> None:
    policy = lexical()
    assert isinstance(next(policy.route(asking(SUM), FLEET)), Compute)
    decision(policy, asking(SUM))
    assert isinstance(next(policy.route(asking(SUM), FLEET)), Note)


# ------------------------------------------------------------------------------------ foretelling


def test_it_foretells_what_it_would_do() -> None:
    policy = lexical(budget=Budget(params_b=4), confidence=0.99)
    asked = [asking(text) for several in prompts().values() for text in several]
    told = policy.foretold([*asked, request(body={"messages": []})])
    assert [(row["reason"], row["choice"]) for row in told[:-1]] == [
        target_of(policy, each) for each in asked
    ]
    assert all(row.keys() == told[0].keys() for row in told)
    assert policy.foretold([]) == []


def test_nothing_is_foretold_where_a_backend_embeds() -> None:
    with pytest.raises(ValueError, match="embedder: nothing can be foretold"):
        Experts(artifact=str(REMOTE), embedder="small").foretold([asking(SUM)])


# --------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("block", "path", "reason"),
    [
        ({"experts": {"tiny": "a"}}, "experts", "no expert tiny; it has small, large, other"),
        ({"budget": {"params_b": 0.5}}, "budget", "0.5 is less than the cheapest expert costs, 1"),
        ({"budget": {"params_b": 1, "usd": 1}}, "budget", "set one of"),
        ({"budget": {"params_b": -1}}, "budget", "must not be negative"),
        ({"budget": {"large_share": 1.5}}, "budget.large_share", "a share is at most 1"),
        ({"risk": {"worse": 0.0}}, "risk.worse", "between 0 and 1"),
        ({"risk": {"worse": 0.1, "confidence": 1.0}}, "risk.confidence", "between 0 and 1"),
        ({"risk": {"worse": 0.1}, "budget": {"usd": 1}}, "risk", "a budget is set already"),
        ({"risk": {"worse": 0.1}, "by": "category"}, "risk", "not by category"),
        ({"by": "category", "budget": {"usd": 0.0}}, "budget", "the cheapest map costs, 0.001"),
        ({"by": "weather"}, "by", "must be 'quality' or 'category'"),
        ({"sticky": -1}, "sticky", "negative"),
        ({"patience": -1}, "patience", "negative"),
        ({"confidence": 1.1}, "confidence", "between 0 and 1"),
        ({"similarity": -1.1}, "similarity", "between -1 and 1"),
        ({"embedder": "small"}, "embedder", "trained without one"),
        ({"artifact": str(REMOTE)}, "embedder", "trained with letters: name the model"),
        ({"artifact": "nowhere"}, "artifact", "nowhere/experts.json: No such file"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(block: Any, path: str, reason: str) -> None:
    complaints = complaints_of({"artifact": str(LEXICAL), **block})
    assert [".".join(map(str, path)) for path, _ in complaints] == [path]
    assert reason in complaints[0][1]
    assert "\n" not in complaints[0][1]


def complaints_of(block: dict[str, Any]) -> Any:
    policy, complaints = build_policy({"use": "experts", **block}, TABLE)
    assert policy is None
    return complaints


def restated(folder: Path, source: Path = LEXICAL, **fields: Any) -> Path:
    """A copy of an artifact whose card says something else."""
    shutil.copytree(source, folder)
    card = json.loads((folder / "experts.json").read_text(encoding="utf-8"))
    (folder / "experts.json").write_text(json.dumps(card | fields), encoding="utf-8")
    return folder


def test_an_artifact_of_another_embedder_is_refused(tmp_path: Path) -> None:
    local = {"name": "older", "fingerprint": "0" * 16, "dimension": 8, "local": True}
    folder = restated(tmp_path / "a", REMOTE, embedding=local)
    ((path, reason),) = complaints_of({"artifact": str(folder)})
    assert path == ("artifact",)
    assert reason.startswith("was trained with the embedder older (0000000000000000), and here is")
    ((path, reason),) = complaints_of({"artifact": str(folder), "embedder": "small"})
    assert (path, reason) == (("embedder",), "the artifact was trained with the local older")


def test_an_artifact_of_another_prior_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, bare = tmp_path / "a", read_artifact(LEXICAL)
    used, units = (
        PriorUsed("0" * 16, ("x",)),
        Units(np.zeros(2, np.float32), np.ones(2, np.float32)),
    )
    parts = replace(bare.parts, prior_units=units)
    write_artifact(folder, replace(bare.card, prior=used), parts)
    ((path, reason),) = complaints_of({"artifact": str(folder)})
    assert path == ("artifact",)
    assert reason.startswith("was trained with the prior 0000000000000000, and here is")

    def gone() -> None:
        raise OSError("it is gone")

    monkeypatch.setattr(opening, "shipped", gone)
    ((path, reason),) = complaints_of({"artifact": str(folder)})
    assert reason == "its prior cannot be read: it is gone"


def test_the_experts_must_be_somebody_here() -> None:
    policy = lexical(experts={"other": "large"})
    assert policy.misfit(fleet("small", "large")) is None
    assert lexical().misfit(fleet("small", "large")) == (
        "the artifact's expert other is no model here (small, large); say who it is: "
        "experts: {other: NAME}"
    )


def _ask(asked: Request) -> Ask:
    return ask_of(asked.body)
