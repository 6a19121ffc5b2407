"""`tandem eval` and `tandem rows`: from the command line to the figures, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from app.cli import main
from app.evaluation import Evaluation, Method, evaluated
from app.evaluation_report import figures, plot, report, warnings
from app.judged import Judged, Names
from policies.direct import Direct
from policies.training.outcomes.rows import Rows, read_rows
from policies.training.replay import Stage, fleet_of
from policies.training.scoring.trails import Floats
from router.fleet import Fleet, Price
from router.phrases import note, route
from router.steps import Policy, Request, Steps

Said = Callable[[], tuple[str, str]]
MODELS = ("model-8b", "model-70b")
SPLIT = "{use: split, weights: {model-8b: 3, model-70b: 1}}"


def outcomes(rows: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """Two tasks; in both, prompts that say `hard` need the large model."""
    rng = random.Random(seed)
    made = []
    for number in range(rows):
        hard = rng.random() < 0.4
        small = float(rng.random() < (0.2 if hard else 0.9))
        made.append(
            {
                "prompt": f"{'hard' if hard else 'easy'} {rng.random()}",
                "task": ("sums", "words")[number % 2],
                "score/model-8b": small,
                "score/model-70b": float(rng.random() < 0.95),
            }
        )
    return made


def written(file: Path, rows: Sequence[object]) -> Path:
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return str(written(tmp_path / "rows.jsonl", outcomes()))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def both() -> tuple[str, str]:
        heard = capsys.readouterr()
        return heard.out, heard.err

    return both


def evaluate(*arguments: str) -> int:
    return main(["eval", "--bootstrap", "50", "--no-knn", *arguments])


# --------------------------------------------------------------------------------- a policy's worth


@dataclass(frozen=True, slots=True)
class Knowing:
    """Sees which prompts are hard, and says so; now and then it does not trust itself."""

    reasons: ClassVar[tuple[str, ...]] = ("knew", "abstained")
    sure: bool = True

    def route(self, request: Request, fleet: Fleet) -> Steps:
        text: str = request.body["messages"][-1]["content"]
        hard = text.startswith("hard")
        if not self.sure and request.draw < 0.25:
            yield from note("abstained")
            return (yield from route("model-70b", request))
        yield from note("knew", expected={"model-8b": 0.2 if hard else 0.9, "model-70b": 0.95})
        return (yield from route("model-70b" if hard else "model-8b", request))


def hardness(texts: Sequence[str]) -> Floats:
    """Vectors that tell as much as there is to be told."""
    return np.asarray([[1.0, float(text.startswith("hard"))] for text in texts])


def judged(policy: Policy, models: Sequence[str] = MODELS, *, chosen: bool = True) -> Judged:
    sizes, prices = [8.0, 70.0, 1.0][: len(models)], [Price()] * len(models)
    targets: dict[str, Policy] = {name: Direct(name) for name in models}
    stage = Stage({**targets, "it": policy}, fleet_of(models, sizes, prices))
    return Judged("it", "knowing", stage, Names({m: m for m in models}, sizes, prices, chosen))


def found(policy: Policy, tmp_path: Path, **method: Any) -> Evaluation:
    held = read_rows([written(tmp_path / "held.jsonl", outcomes(400))])
    return evaluated(judged(policy), held, Method(draws=100, **method))


def test_a_policy_that_knows_is_better_than_what_is_easy_to_have(tmp_path: Path) -> None:
    evaluation = found(Knowing(), tmp_path, embed=hardness)
    result = evaluation.result
    assert result.interval("policy/apgr").low > 0.6
    assert result.above("policy/apgr", "prompt length/apgr").low > 0
    assert result.above("policy/score", "random/score").low > 0
    assert result.above("policy/score", "Zero router/score").low > 0
    # k-NN on these vectors learns the same.
    assert abs(result.above("policy/apgr", "k-NN/apgr").value) < 0.05
    assert result.values["policy/place"] == pytest.approx(0.4, abs=0.06)
    assert evaluation.said == 1
    assert [*evaluation.tasks] == ["sums", "words"]
    assert evaluation.tasks["sums"].rows == 200
    said = " ".join(warnings(evaluation))
    assert "at chance" not in said
    assert "each tenth told by the other nine" in said


def test_k_nn_learns_from_other_rows_where_there_are_some(tmp_path: Path) -> None:
    train = read_rows([written(tmp_path / "train.jsonl", outcomes(300, seed=1))])
    evaluation = found(Knowing(), tmp_path, embed=hardness, train=train)
    assert evaluation.result.interval("k-NN/apgr").low > 0.6
    assert "told by the other nine" not in " ".join(warnings(evaluation))


def test_a_policy_that_abstains_is_counted(tmp_path: Path) -> None:
    evaluation = found(Knowing(sure=False), tmp_path)
    assert evaluation.abstained == pytest.approx(0.25, abs=0.07)
    assert evaluation.said == pytest.approx(0.75, abs=0.07)
    assert "abstained on 2" in report(evaluation)
    assert any("said what it expects on" in warning for warning in warnings(evaluation))
    assert evaluation.result.interval("policy/apgr").low > 0.55


def test_a_report_and_its_json_say_the_same(tmp_path: Path) -> None:
    evaluation = found(Knowing(), tmp_path, embed=hardness)
    text = report(evaluation)
    whole = json.loads(json.dumps(figures(evaluation), allow_nan=False))
    names = [point["name"] for point in whole["points"]]
    assert names[:4] == ["policy", "model-8b", "model-70b", "random"]
    assert all(name in text for name in names)
    apgr = next(one for one in whole["rankings"] if one["name"] == "policy")["figures"]["apgr"]
    assert f"{apgr['value']:.3f}" in text
    assert whole["curves"]["policy"]["place"][-1] == 1
    assert whole["curves"]["policy"]["low"][50] <= whole["curves"]["policy"]["score"][50]
    assert whole["tasks"]["words"]["at_chance"] is False
    assert whole["policy"]["reasons"] == {"knew": 400}


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "curve.png"
    plot(found(Knowing(), tmp_path), file)
    assert file.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OSError, match="No such"):
        plot(found(Knowing(), tmp_path), tmp_path / "none/curve.png")


def test_only_the_models_that_a_policy_ranks_take_part() -> None:
    """Unless they were named: the rows may hold others, and know nothing of these."""
    models = (*MODELS, "model-1b")
    read = outcomes(100)
    scores = np.array([[row["score/model-8b"], row["score/model-70b"], np.nan] for row in read])
    held = Rows(tuple(row["prompt"] for row in read), models, scores)
    evaluation = evaluated(judged(Knowing(), models, chosen=False), held, Method(draws=5))
    assert evaluation.contest.field.models == MODELS
    assert len(evaluation.rows) == 100


def test_many_models_are_compared_at_equal_cost() -> None:
    models = (*MODELS, "model-1b")
    read = outcomes(100)
    scores = np.array([[row["score/model-8b"], row["score/model-70b"], 0.1] for row in read])
    held = Rows(tuple(row["prompt"] for row in read), models, scores)
    evaluation = evaluated(judged(Knowing(), models), held, Method(draws=20))
    assert evaluation.rankers == (), "it expects nothing of the third"
    text = report(evaluation)
    assert "Zero router, same cost" in text
    assert figures(evaluation)["place"] == "cost"


# ----------------------------------------------------------------------------------- the command


def test_a_block_is_judged(rows: str, said: Said) -> None:
    assert evaluate("--rows", rows, "--policy", SPLIT) == 0
    out, err = said()
    assert "200 rows; models: model-8b (8B), model-70b (70B)" in out
    assert "25.0%" in out
    assert "inside 2 of 2 tasks the policy is at chance" in err


def test_json_is_all_that_is_printed(rows: str, said: Said, tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    assert evaluate("--rows", rows, "--policy", SPLIT, "--json", "--plot", str(picture)) == 0
    out, _ = said()
    assert json.loads(out)["rows"] == 200
    assert picture.exists()


def test_a_policy_of_a_configuration_is_judged(rows: str, said: Said, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "models:\n"
        "  tiny: {backends: [http://a], served_as: model-8b}\n"
        "  huge: {backends: [http://b], params_b: 71}\n"
        "  other: {backends: [http://c]}\n"
        "policies:\n"
        "  half: {use: split, weights: {inner: 1, huge: 1}}\n"
        "  inner: {use: direct, model: tiny}\n"
        "  lost: {use: direct, model: other}\n"
        "default: half\n",
        encoding="utf-8",
    )
    options = ("--rows", rows, "--config", str(config), "--as", "huge=model-70b")
    assert evaluate(*options, "--policy", "half") == 0
    assert "tiny (8B), huge (71B)" in said()[0]
    assert evaluate(*options, "--policy", "lost") == 1
    assert "asks other, for which the rows hold no score" in said()[1]
    assert evaluate("--rows", rows, "--config", "none.yaml", "--policy", "half") == 1
    assert "none.yaml was refused" in said()[1]
    assert evaluate(*options, "--policy", "none") == 1
    assert "has no policy none: it has half, inner, lost" in said()[1]


def test_idealised_runtimes_stand_beside_the_costs_where_a_configuration_has_them(
    said: Said, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "models:\n"
        "  model-8b: {backends: [http://a], idealised: {call: 0.5, decode: 0.01}}\n"
        "  model-70b:\n"
        "    backends: [http://b]\n"
        "    idealised: {call: 1, prefill: 0.1, decode: 0.02}\n"
        "    accelerators: 2\n"
        "    usd_per_hour: 3.6\n"
        "policies: {half: {use: split, weights: {model-8b: 1, model-70b: 1}}}\n"
        "default: half\n",
        encoding="utf-8",
    )
    told = [
        {**row, "prompt": f"{number:040}", "chars/model-8b": 400, "chars/model-70b": 200}
        for number, row in enumerate(outcomes())
    ]
    asked = ("--rows", str(written(tmp_path / "told.jsonl", told)), "--config", str(config))
    assert evaluate(*asked, "--policy", "half", "--json", "--no-knn") == 0
    points = {point["name"]: point for point in json.loads(said()[0])["points"]}
    small, large = 0.5 + 100 * 0.01, 1 + 10 * 0.1 + 50 * 0.02
    assert points["model-8b"]["idealised_seconds"] == pytest.approx(small)
    assert points["model-70b"]["idealised_seconds"] == pytest.approx(large)
    for mixed in ("policy", "random"):
        assert points[mixed]["idealised_seconds"] == pytest.approx((small + large) / 2)
    assert points["policy"]["idealised_usd"] is None, "one of the two has no price of an hour"
    assert evaluate(*asked, "--policy", "half", "--no-knn", "--cost", "idealised") == 0
    out, _ = said()
    assert "cost: idealised seconds per request" in out
    assert "idealised s " in out
    assert evaluate(*asked, "--policy", "half", "--no-knn", "--cost", "idealised_usd") == 1
    assert "usd_per_hour" in said()[1]


def test_a_long_block_is_no_path(rows: str, said: Said) -> None:
    block = f"{{use: split, salt: {'x' * 5_000}, weights: {{model-8b: 1}}}}"
    assert evaluate("--rows", rows, "--policy", block) == 0
    assert "200 rows" in said()[0]


def test_a_setting_can_be_changed(rows: str, said: Said) -> None:
    block = "{use: split, weights: {model-8b: 1}}"
    assert evaluate("--rows", rows, "--policy", block, "--set", "weights={model-70b: 1}") == 0
    policy = next(line for line in said()[0].splitlines() if line.startswith("policy"))
    assert "100.0%" in policy


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--policy", "nowhere"), "is no folder with an artifact and no block"),
        (("--policy", "{use: splat}"), "there is no such kind of policy"),
        (("--policy", "{use: split}"), "weights: this setting is required"),
        (("--policy", "{use: direct, model: model-8}"), 'there is no model named "model-8"'),
        (("--policy", SPLIT, "--models", "model-8b,x"), "there is no model x"),
        (("--policy", SPLIT, "--as", "x"), "--as x: write NAME=COLUMN"),
        (("--policy", SPLIT, "--set", "x"), "--set x: write NAME=VALUE"),
        (("--policy", SPLIT, "--params", "x"), "write NAME=BILLIONS"),
        (("--policy", SPLIT, "--cost", "usd"), "the rows hold no costs"),
        (("--policy", SPLIT, "--train", "none.csv"), "none.csv: No such file"),
    ],
)
def test_what_cannot_be_judged_is_told_in_a_line(
    arguments: tuple[str, ...], complaint: str, rows: str, said: Said
) -> None:
    assert evaluate("--rows", rows, *arguments) == 1
    out, err = said()
    assert not out
    assert complaint in err
    assert err.count("\n") == 1


def test_an_artifact_that_no_policy_takes_is_refused(rows: str, said: Said, tmp_path: Path) -> None:
    assert evaluate("--rows", rows, "--policy", str(tmp_path)) == 1
    assert "tandem: --policy" in said()[1]


def test_models_of_unknown_size_are_a_pair_by_price_or_by_worth(tmp_path: Path, said: Said) -> None:
    made = [
        {"prompt": row["prompt"], "score/gpt-4-1106-preview": row["score/model-70b"],
         "score/mixtral-8x7b": row["score/model-8b"], "score/strange": row["score/model-8b"]}
        for row in outcomes()
    ]  # fmt: skip
    held = str(written(tmp_path / "closed.jsonl", made))
    for models, unit in (
        ("gpt-4-1106-preview,mixtral-8x7b", "USD per million tokens"),
        ("gpt-4-1106-preview,strange", "rank by mean score"),
    ):
        block = "{use: direct, model: gpt-4-1106-preview}"
        assert evaluate("--rows", held, "--policy", block, "--models", models) == 0
        out, _ = said()
        assert unit in out
        assert "policy" in out
        assert " 100.0%" in next(line for line in out.splitlines() if line.startswith("policy"))
    text = "{use: direct, model: mixtral-8x7b}"
    pair = "gpt-4-1106-preview,mixtral-8x7b"
    assert evaluate("--rows", held, "--policy", text, "--pair", pair) == 0
    out, err = said()
    assert "the large model is no better" in err
    assert " 100.0%" in next(line for line in out.splitlines() if line.startswith("policy"))


# ------------------------------------------------------------------------------------- from a log


def traffic(tmp_path: Path, chances: dict[str, float], number: int = 600) -> str:
    """What a split wrote down: the large arm is worth 0.9, the small one 0.9 if it is easy."""
    rng = random.Random(1)
    lines: list[object] = []
    for n in range(number):
        hard = n % 2 == 0
        arm = rng.choices([*chances], [*chances.values()])[0]
        worth = 0.2 if hard and arm == "model-8b" else 0.9
        content = f"{'hard' if hard else 'easy'} {n}"
        lines += [
            {
                "id": str(n),
                "surface": "chat/completions",
                "body": {"messages": [{"role": "user", "content": content}]},
                "session": f"s{n // 4}",
                "arm": arm,
                "chances": chances,
                "status": 200,
                "cost": 0.01 if arm == "model-70b" else 0.001,
            },
            {"feedback": str(n), "score": float(rng.random() < worth)},
        ]
    return str(written(tmp_path / "log.jsonl", lines))


EVEN = {"model-8b": 0.5, "model-70b": 0.5}
LARGE = "{use: direct, model: model-70b}"


def test_another_policy_is_judged_by_a_log(tmp_path: Path, said: Said) -> None:
    log = traffic(tmp_path, EVEN)
    assert evaluate("--log", log, "--policy", LARGE, "--json") == 0
    whole = json.loads(said()[0])
    assert whole["decisions"] == 600
    for name in ("ips", "snips", "dr"):
        assert whole["score"][name]["low"] < 0.9 < whole["score"][name]["high"], name
        assert whole["cost"]["snips"]["value"] == pytest.approx(0.01)
    assert whole["score"]["gain"]["low"] > 0
    assert whole["score"]["effective"] == pytest.approx(300, abs=40)
    assert evaluate("--log", log, "--policy", SPLIT) == 0
    out, _ = said()
    assert "doubly robust (means)" in out
    assert "decisions without support" in out


def test_idealised_runtimes_of_a_log_are_estimated_too(tmp_path: Path, said: Said) -> None:
    file = Path(traffic(tmp_path, EVEN))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if "arm" in line:
            line["idealised_seconds"] = 4.0 if line["arm"] == "model-70b" else 1.0
            line["idealised_usd"] = None
    log = str(written(file, lines))
    assert evaluate("--log", log, "--policy", LARGE, "--json") == 0
    whole = json.loads(said()[0])
    assert whole["idealised_seconds"]["snips"]["value"] == pytest.approx(4.0)
    assert "idealised_usd" not in whole
    assert evaluate("--log", log, "--policy", LARGE) == 0
    assert "idealised runtime (seconds), 600 decisions" in said()[0]


def test_what_was_never_tried_is_refused(tmp_path: Path, said: Said) -> None:
    log = traffic(tmp_path, {"model-8b": 1.0})
    known = "{use: direct, model: model-8b}"
    assert evaluate("--log", log, "--policy", known) == 0
    said()
    mixed = "{use: split, weights: {model-8b: 9, other: 1}}"
    assert evaluate("--log", log, "--policy", mixed, "--params", "other=7") == 1
    assert 'there is no model or policy named "other"' in said()[1]
    never = traffic(tmp_path, {"model-8b": 1.0, "model-70b": 0.0})
    assert evaluate("--log", never, "--policy", LARGE) == 1
    assert "100.0% of this policy's decisions" in said()[1]


def test_a_little_of_what_was_never_tried_is_a_warning(tmp_path: Path, said: Said) -> None:
    never = traffic(tmp_path, {"model-8b": 1.0, "model-70b": 0.0})
    little = "{use: split, weights: {model-8b: 97, model-70b: 3}}"
    assert evaluate("--log", never, "--policy", little) == 0
    assert "3.0% of this policy's decisions are for what the log had no chance" in said()[1]


def test_a_log_without_scores_is_worth_its_costs(tmp_path: Path, said: Said) -> None:
    log = Path(traffic(tmp_path, EVEN))
    lines = [line for line in log.read_text("utf-8").splitlines() if "feedback" not in line]
    log.write_text("\n".join(lines), encoding="utf-8")
    assert evaluate("--log", str(log), "--policy", LARGE) == 0
    out, err = said()
    assert "no decision has a score" in err
    assert "cost (USD), 600 decisions" in out


def test_a_configuration_may_lead_where_the_log_never_went(tmp_path: Path, said: Said) -> None:
    log = traffic(tmp_path, EVEN)
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "models: {big: {backends: [http://a], served_as: model-70b}, new: {backends: [http://b]}}\n"
        "policies: {it: {use: direct, model: big}, other: {use: direct, model: new}}\n"
        "default: it\n",
        encoding="utf-8",
    )
    options = ("--log", log, "--config", str(config))
    mapped = ("--as", "big=model-70b", "--json")
    assert evaluate(*options, "--policy", "it", *mapped) == 0
    whole = json.loads(said()[0])
    assert whole["arms"] == ["model-8b", "model-70b"]
    assert whole["score"]["snips"]["value"] == pytest.approx(0.9, abs=0.05)
    assert evaluate(*options, "--policy", "other") == 1
    assert "choosing (new): let a share of the traffic explore" in said()[1]


def test_what_the_logged_policy_expected_is_a_model_of_the_outcomes(
    tmp_path: Path, said: Said
) -> None:
    log = Path(traffic(tmp_path, EVEN))
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    for line in lines:
        if "body" in line:
            hard = "hard" in json.dumps(line["body"])
            line["expected"] = {"model-8b": 0.2 if hard else 0.9, "model-70b": 0.9}
    written(log, lines)
    assert evaluate("--log", str(log), "--policy", LARGE, "--json") == 0
    whole = json.loads(said()[0])
    assert whole["outcome_model"] == "expected"
    assert whole["score"]["dr"]["low"] < 0.9 < whole["score"]["dr"]["high"]


# --------------------------------------------------------------------------------------- the rows


def test_rows_are_converted(tmp_path: Path, said: Said) -> None:
    source = written(
        tmp_path / "raw.jsonl",
        [{"prompt": "p", "answer": "7", "output/old": '{"answer": "7"}', "output/b": "no"}],
    )
    out = tmp_path / "out.parquet"
    renamed = ("--models", "old", "--rename", "old=new", "--task", "sums")
    assert main(["rows", str(source), "--out", str(out), *renamed]) == 0
    assert "new: mean score 1.000 of 1; no result could be read in 0.0%" in said()[0]
    found = read_rows([out])
    assert (found.models, found.tasks, found.scores.tolist()) == (("new",), ("sums",), [[1.0]])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--models", "x"), "no model x"),
        (("--rename", "x=y"), "--rename: there is no model x"),
        (("--rename", "x"), "write OLD=NEW"),
        (("--rename", "model-8b=model-70b"), "two models would have one name"),
    ],
)
def test_rows_that_cannot_be_converted_are_told_in_a_line(
    arguments: tuple[str, ...], complaint: str, rows: str, tmp_path: Path, said: Said
) -> None:
    assert main(["rows", rows, "--out", str(tmp_path / "out.parquet"), *arguments]) == 1
    assert complaint in said()[1]
    assert not (tmp_path / "out.parquet").exists()
