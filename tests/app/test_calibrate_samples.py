"""`tandem calibrate best-of`: on rows, on scripted backends, and on the embedded pair."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app import embedded, sampling_collect
from app.cli import main
from policies import TABLE
from policies.training.sampling.rows import Rows, line_of, read_rows
from policies.verdicts.calibrated import read_calibrated
from router.config import parse
from tests.policies.training.sampling.made_rows import World
from tests.running import config
from tests.scripted import Backend, Call, answers, chat_answer, usage

BEST = {"use": "best_of", "small": "small", "large": "large"}
VOTES = {**BEST, "majority": {}}
GRADES = {**BEST, "grade": {"by": "large"}}
QUESTIONS = [{"prompt": f"{n} + 4", "answer": str(n + 4)} for n in range(60)]


class Command:
    """The command with a configuration, rows, and a place for what it finds."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = folder / "gateway.json"
        self.rows = folder / "rows" / "rows.jsonl"
        self.prompts = folder / "prompts.jsonl"
        self.out = folder / "found" / "best-of.json"
        self.capsys = capsys
        self.serves(VOTES)

    def serves(self, block: Mapping[str, Any], **models: Backend) -> None:
        served: Any = models or {"small": "http://m:1", "large": "http://m:1"}
        tree = config(served, policies={"auto": dict(block)})
        tree["models"]["small"]["price"] = {"input": 0.1, "output": 0.2}
        self.config.write_text(json.dumps(tree))

    def holds(self, rows: Rows, **changed: Any) -> None:
        self.rows.parent.mkdir(exist_ok=True)
        lines = [{**line_of(rows.origin, row), **changed} for row in rows.rows]
        self.rows.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(self, *more: str, status: int = 0) -> tuple[str, str]:
        """What it printed, and what it said."""
        words = ["calibrate", "best-of", "--rows", str(self.rows), "--config", str(self.config)]
        assert main([*words, *more]) == status
        said = self.capsys.readouterr()
        return said.out, said.err


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


# ----------------------------------------------------------------------------------------- rows


def test_what_is_found_is_served(command: Command) -> None:
    command.holds(World(difficulties=(0.1, 0.97)).rows(200))
    out, _ = command.run("--stages", "1,4", "--json", "--out", str(command.out), "--orders", "2")
    told = json.loads(out)
    assert told["rows"] == {"prompts": 200, "samples": 16, "references": 200, "orders": 2}
    held = told["held_out"]
    assert 0.9 < held["accuracy"]["low"] <= held["accuracy"]["value"] <= held["accuracy"]["high"]
    assert held["cost"]["value"] < 0.8 < told["beside"]["large alone"]["cost"]["value"]
    assert {"small alone", "large alone", "4 samples", "16 samples"} <= told["beside"].keys()
    assert told["beside"]["the bar 0.7, stages 4"]["accuracy"]["value"] > 0.6
    assert told["block"] == {**VOTES, "artifact": str(command.out), "worth": 20.0}
    found = read_calibrated(command.out)
    assert [stage["samples"] for stage in told["stages"]] == list(found.totals)
    assert sum(one["prompts"] for one in told["stages"][0]["bins"]) == pytest.approx(200)
    command.serves(told["block"])
    assert parse(command.config.read_text(), TABLE).kinds["auto"] == "best_of"


def test_the_report_holds_the_block(command: Command) -> None:
    command.holds(World(difficulties=(0.1, 0.97)).rows(120))
    out, err = command.run("--stages", "1,4", "--orders", "2", "--target", "0.9")
    assert "  auto: {use: best_of, small: small, large: large, majority: {}, artifact:" in out
    assert "verifier  majority, bar 0.7: wrong ones pass in " in out
    assert "after 1 sample\n" in out
    assert ": stop" in out
    assert err == ""


@pytest.mark.slow
def test_the_target_is_kept_at_the_least_cost(command: Command) -> None:
    command.holds(World(difficulties=(0.2, 0.6, 0.98)).rows(150))
    costs = []
    for target in ("0.8", "0.95"):
        out, _ = command.run("--stages", "1,4", "--json", "--target", target, "--orders", "2")
        told = json.loads(out)
        large = told["beside"]["large alone"]["accuracy"]["value"]
        kept = [p for p in told["curve"] if p["accuracy"] >= float(target) * large]
        assert told["held_out"]["cost"]["value"] == pytest.approx(min(p["cost"] for p in kept))
        assert told["held_out"]["kept"]["value"] >= float(target)
        costs.append(told["held_out"]["cost"]["value"])
    assert costs[0] < costs[1]


def test_stages_beyond_the_cap_are_left_out(command: Command) -> None:
    """A grader that likes everything, and samples that cost: one is enough."""
    command.serves({**BEST, "grade": {"by": "large", "prompt": "{draft}"}})
    command.holds(World(difficulties=(0.5,), passes=(1.0, 1.0)).rows(100))
    out, _ = command.run("--stages", "1,4,8", "--json", "--out", str(command.out))
    assert json.loads(out)["cap"]["most"] == 1
    assert read_calibrated(command.out).totals == (1,)


@pytest.mark.slow
def test_of_several_schedules_the_best_is_taken(command: Command) -> None:
    command.holds(World(difficulties=(0.1, 0.97)).rows(150))
    told: dict[int, float] = {}
    for stages in (["1"], ["4"], ["1", "4"]):
        words = [word for one in stages for word in ("--stages", one)]
        out, _ = command.run(*words, "--json", "--orders", "2")
        value = json.loads(out)["held_out"]
        told[len(told)] = 20 * value["accuracy"]["value"] - value["cost"]["value"]
    assert told[2] == max(told[0], told[1])


def test_without_references_the_large_models_answers_count(command: Command) -> None:
    command.holds(World(large=0.7).rows(80), reference=None)
    out, err = command.run("--json", "--orders", "2")
    assert "80 of 80 prompts have no answer" in err
    told = json.loads(out)
    assert told["unreferenced"] == 80
    assert told["beside"]["large alone"]["accuracy"]["value"] == 1.0


@pytest.mark.slow
def test_a_picture(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    command.holds(World().rows(60))
    file = tmp_path / "curve.png"
    command.run("--target", "0.5", "--orders", "1", "--plot", str(file))
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--stages", "4,32"], "stages of 32 samples, and the rows have 16"),
        (["--n", "10"], "10 rows are too few"),
        (["--policy", "nobody"], "there are auto"),
        (["--target", "0.9"], "no plan keeps 90.0% of the large model's accuracy; the best"),
    ],
    ids=["stages", "few", "policy", "target"],
)
def test_what_cannot_be_found_is_said_in_a_line(
    command: Command, words: list[str], why: str
) -> None:
    command.holds(World(difficulties=(0.3,), large=0.0).rows(80))
    _, err = command.run(*words, "--orders", "1", status=1)
    assert why in err
    assert err.count("\n") == 1


def test_rows_of_something_else_are_refused(command: Command) -> None:
    command.holds(World(passes=(0.1, 0.9)).rows(60))
    _, err = command.run(status=1)
    assert "the rows were drawn with verifier: {'use': 'grade'" in err
    command.rows.write_text("{}\n")
    assert "holds no rows" in command.run(status=1)[1]


@pytest.mark.parametrize(
    "words", [["--stages", "4,4"], ["--stages", "0"], ["--worth", "0"], ["--target", "2"]], ids=str
)
def test_nonsense_is_a_wrong_command(command: Command, words: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.run(*words)


# -------------------------------------------------------------------------------------- drawing


def asked(call: Call) -> str:
    content: str = call.json["messages"][-1]["content"]
    return content


def several(*texts: str) -> dict[str, Any]:
    """An answer of several choices, two tokens each."""
    tokens = [{"token": "a", "logprob": -0.25, "bytes": None, "top_logprobs": []}] * 2
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": text},
            "logprobs": {"content": tokens},
            "finish_reason": "stop",
        }
        for number, text in enumerate(texts)
    ]
    return {**chat_answer(), "choices": choices, "usage": usage(10, 2 * len(texts))}


async def adds(call: Call) -> None:
    """A small model: its one greedy answer is right for even numbers, half of its others are."""
    number = int(asked(call).split(" + ")[0])
    if call.json.get("n", 1) == 1:
        texts = [str(number + 4 + number % 2)]
    else:
        texts = [str(number + 4 + at % 2) for at in range(call.json["n"])]
    await answers(several(*texts))(call)


async def knows(call: Call) -> None:
    """A large model, which also grades: what is right is right in it."""
    text = asked(call)
    if "Solution" not in text:
        await answers(chat_answer(f"It makes {int(text.split(' + ')[0]) + 4}"))(call)
        return
    question, solution = text.split("\n\nSolution:\n")
    right = int(question.split(" + ")[0]) + 4 == int(solution.split("\n")[0])
    await answers(chat_answer("yes" if right else "no"))(call)


async def test_samples_are_drawn_marked_and_kept(
    command: Command, small: Backend, large: Backend
) -> None:
    command.serves(VOTES, small=small, large=large)
    command.prompts.write_text("\n".join(map(json.dumps, QUESTIONS)))
    small.plays(adds)
    large.plays(knows)
    words = ["--prompts", str(command.prompts), "--samples", "4", "--orders", "2", "--json"]
    words += ["--at-once", "1"]
    out, _ = await asyncio.to_thread(command.run, *words)
    told = json.loads(out)
    assert told["beside"]["large alone"]["accuracy"]["value"] == 1.0
    assert told["beside"]["small alone"]["accuracy"]["value"] == 0.5
    row = next(row for row in read_rows(command.rows).rows if row.reference == "4")
    assert (row.reference, row.prompt_tokens) == ("4", 10.0)
    assert (row.first.answer, row.first.tokens, row.first.logprob) == ("4", 2.0, -0.25)
    assert [sample.answer for sample in row.samples] == ["4", "5", "4", "5"]
    assert row.large.text == "It makes 4"
    one, many = (call.json for call in small.calls[:2])
    assert (one["temperature"], "n" in one, one["logprobs"]) == (0, False, True)
    assert (many["temperature"], many["n"]) == (0.7, 4)
    assert len(small.calls) == 2 * len(QUESTIONS)
    # All is known now, and rows alone do.
    small.plays(answers({}, 500))
    assert json.loads((await asyncio.to_thread(command.run, *words))[0]) == told
    assert json.loads(command.run("--orders", "2", "--json")[0]) == told
    assert len(small.calls) == 2 * len(QUESTIONS)


async def test_a_run_that_broke_off_goes_on(
    command: Command, small: Backend, large: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_collect, "PAUSES", (0.0,))
    command.serves(VOTES, small=small, large=large)
    command.prompts.write_text("\n".join(map(json.dumps, QUESTIONS)))
    fails = answers({"error": {"message": "out of memory"}}, 500)
    small.plays(*[adds] * 3, fails, *[adds] * 18, fails)  # once is no matter
    large.plays(knows)
    words = "--prompts", str(command.prompts), "--samples", "4", "--at-once", "1"
    _, err = await asyncio.to_thread(command.run, *words, status=1)
    assert "small failed: " in err
    assert len(read_rows(command.rows)) == 10
    small.plays(adds)
    before = len(small.calls)
    await asyncio.to_thread(command.run, *words, "--orders", "1")
    assert len(read_rows(command.rows)) == len(QUESTIONS)
    assert len(small.calls) - before == 2 * (len(QUESTIONS) - 10)


async def test_the_verifiers_own_code_gives_the_marks(
    command: Command, small: Backend, large: Backend
) -> None:
    command.serves(GRADES, small=small, large=large)
    command.prompts.write_text("\n".join(map(json.dumps, QUESTIONS)))
    small.plays(adds)
    large.plays(knows)
    words = "--prompts", str(command.prompts), "--samples", "4", "--stages", "1,2", "--json"
    out, _ = await asyncio.to_thread(command.run, *words, "--orders", "2")
    row = next(row for row in read_rows(command.rows).rows if row.reference == "5")
    assert (row.first.mark, [one.mark for one in row.samples]) == (0.0, [1.0, 0.0, 1.0, 0.0])
    assert row.judged == (10.0, 2.0)
    cap = json.loads(out)["cap"]
    assert (cap["false_positive"]["value"], cap["true_positive"]["value"]) == (0.0, 1.0)


async def test_a_policy_without_a_large_model_is_refused(
    command: Command, small: Backend, large: Backend
) -> None:
    block = {name: value for name, value in VOTES.items() if name != "large"}
    command.serves(block, small=small, large=large)
    command.prompts.write_text(json.dumps(QUESTIONS[0]))
    _, err = await asyncio.to_thread(command.run, "--prompts", str(command.prompts), status=1)
    assert "large: none: a plan weighs what a small and a large model cost" in err


@pytest.mark.slow
@pytest.mark.xdist_group("pair")
def test_the_command_on_the_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from deploy.pair.problems import TUNE_SEEDS, problems

    asked_ = problems(TUNE_SEEDS.start + 7, 60)
    prompts = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": one.prompt, "answer": one.answer}) for one in asked_]
    prompts.write_text("\n".join(lines))
    rows, out = tmp_path / "rows.jsonl", tmp_path / "best-of.json"
    command = ["calibrate", "best-of", "--prompts", str(prompts), "--rows", str(rows), "--json"]
    more = ["--policy", "sampled", "--samples", "5", "--stages", "1,4", "--out", str(out)]
    assert main([*command, *more, "--orders", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    beside = {name: one["accuracy"]["value"] for name, one in told["beside"].items()}
    assert beside["small alone"] < beside["large alone"]
    assert told["block"]["artifact"] == str(out)
    models = {name: {"backends": ["http://m:1"]} for name in embedded.SIZES}
    tree = {"models": models, "policies": {"it": told["block"]}, "default": "it"}
    assert parse(json.dumps(tree), TABLE).kinds["it"] == "best_of"
