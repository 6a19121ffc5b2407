"""Best of N: the small model answers several times, and a verifier chooses one of its answers.

Between the small model and the large one there is a third: the small one, asked again. Its samples
come from one call (`n`), so that the prompt is read once. What the client gets is one of them, as
its backend wrote it. Samples are drawn in stages, more of them only while the best is not good
enough; if none ever is, the large model answers. No verifier is perfect, and the more samples, the
likelier one that deceives it (arXiv 2411.17501): hence few of them, and a cap.

What is good enough is a bar, or a calibration (`tandem calibrate best-of`): then after each stage a
plan decides whether to stop, to draw on or to ask the large model, by what is expected of each and
what it costs (arXiv 2408.03314).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from policies.verdicts.calibrated import Calibrated, read_calibrated
from policies.verdicts.checks import refuse_no_schema
from policies.verdicts.drawing import Drawing, not_sampled
from policies.verdicts.grading import Grade
from policies.verdicts.marking import (
    ByGrade,
    ByLogprob,
    BySchema,
    ByScore,
    ByVote,
    Drawn,
    Verifier,
)
from policies.verdicts.plan import Action, Plan, Prices, planned, prices_of
from policies.verdicts.scoring import Scoring, unscored
from policies.verdicts.votes import Majority, best_of
from router.fleet import Fleet
from router.phrases import (
    Phrase,
    note,
    relay_one,
    route,
)
from router.steps import (
    Attempt,
    Draft,
    Failed,
    Request,
    Steps,
    TargetName,
)

MOST = 16
"""Samples of one request. Choosing among more seldom helps, and costs as much again."""
USUAL = (4,)
MOST_PLANS = 16
"""Plans that are remembered: one for each state of the prices."""


@dataclass(frozen=True, slots=True)
class BestOf:
    """Several samples of the small model, and a verifier that chooses among them."""

    reasons: ClassVar[tuple[str, ...]] = (
        "sure",
        "best",
        "unsure",
        "no_verdict",
        "draft_failed",
        "not_sampled",
    )

    small: TargetName
    """The model that is sampled; or a policy, such as one by which two models write an answer."""
    large: TargetName | None = None
    """Who answers where no sample is good enough; by default the best sample does."""
    stages: tuple[int, ...] | None = None
    """How many samples there are in all after each stage; the next one begins only while none of
    them is good enough. Default: 4, or what `artifact` was fitted for."""
    bar: float = 0.7
    """What is good enough: the share of the samples with one answer (`majority`), or how probable
    it is that the grader accepts (`grade`), 0 to 1; or a score of the reward model's (`score`)."""
    majority: Majority | None = None
    """Choose the answer that most samples come to."""
    json_schema: Mapping[str, Any] | Literal["request"] | None = None
    """Choose the first sample that is JSON of this schema; `request` takes that of the request."""
    grade: Grade | None = None
    """Choose the sample that this model likes best."""
    score: Scoring | None = None
    """Choose the sample that this reward model scores highest."""
    mean_logprob: float | None = None
    """Choose the sample with the highest mean natural log-probability per token; good enough from
    this one upwards."""
    temperature: float = 0.7
    """What several samples are drawn at, where the client asks for less, or for none."""
    artifact: str | None = None
    """The file that `tandem calibrate best-of` wrote, relative to where Tandem is started: what the
    verifier's word is worth. In place of `bar`; needs `large`."""
    worth: float = 20.0
    """With `artifact`: what a right answer is worth, in answers of the large model."""
    alone: TargetName | None = None
    """Who answers what is not sampled; default: the large model, or without one the small one."""
    _calibrated: Calibrated | None = field(init=False, repr=False, compare=False)
    _plans: dict[Prices, Plan] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        verifiers = (self.majority, self.json_schema, self.grade, self.score, self.mean_logprob)
        if sum(verifier is not None for verifier in verifiers) != 1:
            raise ValueError("set exactly one of majority, json_schema, grade, score, mean_logprob")
        object.__setattr__(self, "_plans", {})
        object.__setattr__(self, "_calibrated", None)
        object.__setattr__(self, "_calibrated", self._read())
        totals = self.totals
        if not totals or list(totals) != sorted(set(totals)):
            raise ValueError("stages: numbers of samples that grow, such as 1, 4, 8")
        if not 1 <= totals[0] <= totals[-1] <= MOST:
            raise ValueError(f"stages: from 1 sample to {MOST}")
        sure = self.artifact or (self.majority and self.majority.sure is not None)
        if self.majority and totals[0] == 1 and not sure:
            raise ValueError(
                "stages: one sample always agrees with itself; begin with more, or set "
                "majority.sure"
            )
        unbound = self.score is not None and self.score.scale == "raw"
        if not (unbound or 0 < self.bar <= 1):
            raise ValueError("bar: above 0, and at most 1")
        if self.mean_logprob is not None and not self.mean_logprob <= 0:
            raise ValueError("mean_logprob: the logarithm of a probability is at most 0")
        if not 0 < self.temperature <= 2:
            raise ValueError("temperature: above 0, where samples would be equal, and at most 2")
        if not 0 < self.worth < float("inf"):
            raise ValueError("worth: above 0")
        refuse_no_schema(self.json_schema)

    def _read(self) -> Calibrated | None:
        """The calibration, as far as the stages go. Raises ValueError for another's."""
        if self.artifact is None:
            return None
        try:
            calibrated = read_calibrated(Path(self.artifact))
        except ValueError as error:
            raise ValueError(f"artifact: {error}") from None
        wanted = {**self.facts, "temperature": self.temperature}
        if why := calibrated.stranger(self.small, self.large, wanted):
            raise ValueError(f"artifact: {why}; `tandem calibrate best-of` fits one anew")
        totals = calibrated.totals if self.stages is None else self.stages
        if not totals or totals != calibrated.totals[: len(totals)]:
            told = ", ".join(map(str, calibrated.totals))
            raise ValueError(f"stages: the artifact knows the stages {told}, and begins with them")
        return calibrated.first(len(totals))

    @property
    def totals(self) -> tuple[int, ...]:
        """How many samples there are in all after each stage."""
        if self._calibrated is not None:
            return self._calibrated.totals
        return USUAL if self.stages is None else self.stages

    @property
    def facts(self) -> Mapping[str, Any]:
        """The verifier with its settings, but for those of what is good enough; as in JSON."""
        name, told = self.verifier.name, {}
        setting = getattr(self, name)
        if is_dataclass(setting) and not isinstance(setting, type):
            told = {key: value for key, value in asdict(setting).items() if key != "sure"}
        elif not isinstance(setting, float | int):
            told = {"schema": setting}
        found: dict[str, Any] = json.loads(json.dumps({"use": name, **told}, default=dict))
        return found

    @property
    def judge(self) -> str | None:
        """The model that the verifier asks, if it asks one."""
        by: str | None = getattr(getattr(self, self.verifier.name), "by", None)
        return by

    def misfit(self, fleet: Fleet) -> str | None:
        """Whether the reward model's servers are known not to tell scores so; and a plan weighs
        what answers cost, which is known of models only.
        """
        if self.score is not None and (why := unscored(self.score, fleet)):
            return why
        if self._calibrated is None:
            return None
        for setting, name in (("small", self.small), ("large", self.large)):
            if name not in fleet.models:
                return f"artifact: {setting}: {name} is no model, and only these have a price"
        return None

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Relay one of the samples, or the large model's answer."""
        if why := next(not_sampled(request), None):
            yield from note("not_sampled", why)
            return (yield from route(self.alone or self.large or self.small, request))
        drawn, drawing = Drawn([], []), Drawing(self.small, self.temperature, self.verifier)
        for stage, total in enumerate(self.totals, start=1):
            heard = yield from drawing.draw(request, fleet, drawn, total - len(drawn.samples))
            if isinstance(heard, Failed):
                if not drawn.samples:
                    return (yield from self._undrawn(request, heard))
                drawn.why = f"stage {stage} failed: {heard.fault.summary}"
                break
            yield from self._judge(request, fleet, drawn, total)
            drawn.said += f", stage {stage} of {len(self.totals)}"
            if drawn.enough or drawn.handed or drawn.why:
                break
        return (yield from self._answer(request, drawn))

    # ------------------------------------------------------------------------------ judging

    def _judge(self, request: Request, fleet: Fleet, drawn: Drawn, total: int) -> Phrase[None]:
        """Mark the samples, of which there should be `total`, and find the best of them."""
        verifier = self.verifier
        yield from verifier.mark(drawn, request, fleet, total)
        number = len(drawn.samples)
        drawn.best = best_of(drawn.marks)
        mark = None if drawn.best is None else drawn.marks[drawn.best]
        marked = "" if mark is None else f" {mark:.2f}"
        drawn.said = f"{verifier.name}{marked} of {number} sample{'s' * (number > 1)}"
        if (plan := self._plan(fleet)) is not None:
            self._decide(plan, drawn, mark)
        elif mark is not None:
            drawn.enough = mark >= (self.bar if self.mean_logprob is None else self.mean_logprob)

    def _decide(self, plan: Plan, drawn: Drawn, mark: float | None) -> None:
        """What the plan does after this stage, and what it expects."""
        drawn.bins += (plan.calibrated.stages[len(drawn.bins)].bin_of(mark),)
        action, cell = plan.at(drawn.bins)
        drawn.enough, drawn.handed = action is Action.STOP, action is Action.LARGE
        drawn.said += f", expected {cell.right:.2f}"
        assert self.large is not None
        drawn.expected = {self.small: cell.right, self.large: cell.large}

    def _plan(self, fleet: Fleet) -> Plan | None:
        """The plan at the fleet's prices, made when these are first met."""
        if self._calibrated is None or self.large is None:
            return None
        prices = prices_of(fleet, self.small, self.large, self.judge)
        if prices not in self._plans:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            self._plans[prices] = planned(self._calibrated, prices, self.worth)
        return self._plans[prices]

    @property
    def verifier(self) -> Verifier:
        """The one that is set."""
        if self.majority is not None:
            return ByVote(self.majority, alone=self._alone)
        if self.json_schema is not None:
            return BySchema(self.json_schema)
        if self.score is not None:
            return ByScore(self.score)
        return ByLogprob() if self.grade is None else ByGrade(self.grade)

    @property
    def _alone(self) -> bool:
        """Whether a first sample alone is judged by a calibration."""
        return self.artifact is not None and self.totals[0] == 1

    # ------------------------------------------------------------------------------ the end

    def _undrawn(self, request: Request, failed: Failed) -> Steps:
        """No sample at all: somebody else answers, if that can help."""
        if not failed.fault.elsewhere or self.large is None:
            return failed
        yield from note("draft_failed", failed.fault.summary)
        return (yield from route(self.large, request))

    def _answer(self, request: Request, drawn: Drawn) -> Steps:
        """The best sample if it is good enough, or if there is nobody else to ask."""
        warm = f"drawn at temperature {self.temperature:g}" if drawn.heated else ""
        detail = ", ".join(filter(None, (drawn.said, warm, drawn.why)))
        reason = "best" if self.large is None else "unsure"
        if drawn.best is None:
            reason = "no_verdict"
        elif drawn.enough:
            reason = "sure"
        yield from note(reason, detail, drawn.expected)
        if self.large is not None and not drawn.enough:
            return (yield from route(self.large, request))
        chosen = drawn.samples[drawn.best or 0]
        others = {one: None for sample in drawn.samples for one in _opened(sample)}
        for own in _opened(chosen):
            others.pop(own, None)
        return (yield from relay_one(chosen, tuple(others)))


def _opened(sample: Draft) -> tuple[Attempt, ...]:
    return sample.opened or (sample.attempt,)
