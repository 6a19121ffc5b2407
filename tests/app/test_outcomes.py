"""`tandem outcomes`: on scripted backends, and on the embedded pair; what a broken run leaves."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app import embedded, outcomes
from app.cli import main
from app.outcomes_collect import MOST_IN_A_ROW, journal_beside
from deploy.pair.stories import KINDS
from policies.training.outcomes.rows import Rows, read_rows
from tests.running import config, model
from tests.scripted import PATIENCE, Backend, Call, Script, answers, chat_answer, usage

ROOT = Path(__file__).parents[2]
TANDEM = (sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())")
SUMS = [{"prompt": f"{n} + 4", "answer": n + 4, "task": "sums"} for n in range(6)]
OPEN = [{"prompt": f"Why {n}?"} for n in range(3)]


def asked(call: Call) -> str:
    """The last message of a call."""
    content: str = call.json["messages"][-1]["content"]
    return content


def says(text: str, **said: Any) -> Script:
    return answers(chat_answer(text, said=said))


async def adds(call: Call) -> None:
    """A model that can add."""
    await says(f"It makes {sum(map(int, asked(call).split(' + ')))}")(call)


class Command:
    """The command with a configuration, prompts and a place for rows."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = folder / "gateway.json"
        self.prompts = folder / "prompts.jsonl"
        self.out = folder / "rows" / "rows.parquet"
        self.capsys = capsys

    def serves(self, **models: Backend) -> None:
        self.config.write_text(json.dumps(config(models)))

    def asks(self, rows: list[dict[str, Any]]) -> None:
        self.prompts.write_text("\n".join(map(json.dumps, rows)))

    @property
    def words(self) -> list[str]:
        named = "--config", self.config, "--prompts", self.prompts, "--out", self.out
        return ["outcomes", *map(str, named)]

    async def run(self, *more: str, status: int = 0) -> tuple[str, str]:
        """Run it in a thread; what it printed and what it said."""
        assert await asyncio.to_thread(main, [*self.words, *more]) == status
        said = self.capsys.readouterr()
        return said.out, said.err

    @property
    def rows(self) -> Rows:
        return read_rows([self.out])


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


async def test_every_model_answers_every_prompt(
    command: Command, small: Backend, large: Backend
) -> None:
    command.serves(small=small, large=large)
    command.asks(SUMS)
    small.plays(says("5"))
    large.plays(adds)
    out, _ = await command.run("--max-tokens", "50")
    assert "large: mean score 1.000 of 6, 1.4e-05 USD an answer" in out
    rows = command.rows
    assert rows.models == ("small", "large")
    assert rows.prompts == tuple(row["prompt"] for row in SUMS)
    assert rows.tasks == ("sums",) * 6
    assert rows.scores[:, 0].tolist() == [0, 1, 0, 0, 0, 0]
    assert rows.scores[:, 1].tolist() == [1] * 6
    assert rows.outputs is not None
    assert rows.outputs[2] == ("5", "It makes 6")
    assert rows.lengths is not None
    assert rows.lengths[2].tolist() == [1, 10]
    assert rows.costs is not None  # 10 tokens at 1 USD a million, 2 at 2
    assert rows.costs[2].tolist() == pytest.approx([14e-6, 14e-6])
    body = small.calls[0].json
    assert (body["temperature"], body["max_tokens"]) == (0, 50)
    # Everything is known now: nobody is asked again, and marks are made anew.
    small.plays(answers({}, 500))
    large.plays(answers({}, 500))
    out, _ = await command.run("--max-tokens", "50", "--result", r"makes (\d)", "--json")
    told = json.loads(out)
    assert (told["models"]["small"]["unread"], told["models"]["large"]["unread"]) == (1, 0.0)
    assert len(small.calls) == len(large.calls) == 6
    # Under another limit the answers may be others.
    small.plays(says("5"))
    await command.run("--max-tokens", "60", "--models", "small")
    assert len(small.calls) == 12
    assert command.rows.models == ("small",)


async def test_a_run_that_was_killed_goes_on(command: Command, small: Backend) -> None:
    command.serves(small=small)
    command.asks(SUMS)
    stopped = asyncio.Event()

    async def stops(call: Call) -> None:
        stopped.set()
        await call.gone.wait()

    small.plays(adds, adds, adds, stops)
    running = await asyncio.create_subprocess_exec(
        *TANDEM, *command.words, "--at-once", "1", cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
    )
    await asyncio.wait_for(stopped.wait(), PATIENCE)
    running.kill()
    await running.wait()
    assert not command.out.exists()
    with journal_beside(command.out).open("a") as journal:
        journal.write('{"id": "cut sh')  # as a crash leaves it
    small.plays(adds)
    await command.run()
    assert [asked(call) for call in small.calls] == [
        row["prompt"] for row in [*SUMS[:4], *SUMS[3:]]
    ]
    assert command.rows.scores.tolist() == [[1]] * 6


async def test_an_answer_that_fails_leaves_a_gap(
    command: Command, small: Backend, large: Backend
) -> None:
    command.serves(small=small, large=large)
    command.asks(SUMS)
    refused = answers({"error": {"message": "too long for me"}}, 400)
    small.plays(adds, refused, adds)
    large.plays(adds)
    out, told = await command.run("--at-once", "1")
    assert "small: mean score 1.000 of 5" in out
    assert "small failed 1 times" in told
    assert "too long for me" in told
    scores = command.rows.scores
    assert math.isnan(scores[1, 0])
    assert scores[1, 1] == 1
    _, told = await command.run()
    assert "failed" not in told
    assert asked(small.calls[-1]) == "1 + 4"
    assert command.rows.scores.min() == 1


async def test_a_model_that_is_not_there_ends_the_run(
    command: Command, small: Backend, large: Backend
) -> None:
    command.serves(small=small, large=large)
    command.asks([{"prompt": f"{n} + 4", "answer": n + 4} for n in range(2 * MOST_IN_A_ROW)])
    small.plays(adds)
    large.plays(answers({"error": {"message": "who are you?"}}, 401))
    _, told = await command.run("--at-once", "1", status=1)
    line = told.splitlines()[-1]
    assert line.startswith("tandem: large failed")
    assert "the backend refused the gateway's own key (401)" in line
    assert "leave it out with --models" in line
    assert len(large.calls) <= MOST_IN_A_ROW
    await command.run("--models", "small")
    assert len(small.calls) == 2 * MOST_IN_A_ROW


# ------------------------------------------------------------------------------------- a judge


def verdict(said: str, **chances: float) -> Mapping[str, Any]:
    """What a judge's choice adds, with the probabilities of digits."""
    top = [{"token": digit[1:], "logprob": math.log(p)} for digit, p in chances.items()]
    token = {"token": said, "logprob": 0.0, "top_logprobs": top}
    return {"logprobs": {"content": [token]}} if chances else {}


async def test_a_judge_marks_where_no_answer_is_known(
    command: Command, small: Backend, large: Backend
) -> None:
    command.serves(small=small, large=large)
    command.asks([*OPEN[:2], SUMS[0]])
    small.plays(says("Because."))

    async def judges(call: Call) -> None:
        if call.json["max_tokens"] > 1:
            await says("4")(call)
        elif "Why 1?" in asked(call):
            await says("Hm")(call)
        else:
            await says("9", **verdict("9", d9=0.5, d0=0.5))(call)

    large.plays(judges)
    words = "--judge", "large", "--models", "small"
    _, told = await command.run(*words)
    assert "1 answers have no score: the judge said no digit" in told
    scores = command.rows.scores[:, 0].tolist()
    assert scores[0] == pytest.approx(0.5)
    assert math.isnan(scores[1])
    assert scores[2] == 0
    body = large.calls[0].json
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
    assert "\nWhy 0?\n" in asked(large.calls[0])
    assert "\nBecause.\n" in asked(large.calls[0])
    assert len(large.calls) == 2
    await command.run(*words)
    assert len(large.calls) == 2


async def test_a_judge_without_log_probabilities_says_a_digit(
    command: Command, small: Backend, large: Backend
) -> None:
    command.serves(small=small, large=large)
    command.asks(OPEN)
    small.plays(says("Because."))

    async def judges(call: Call) -> None:
        refused = answers({"error": {"message": "no logprobs here"}}, 400)
        await (refused if "logprobs" in call.json else says("3"))(call)

    large.plays(judges)
    await command.run("--judge", "large", "--models", "small")
    assert command.rows.scores[:, 0].tolist() == pytest.approx([1 / 3] * 3)


# ------------------------------------------------------------------------- what is said in a line


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ([], "3 of 3 prompts have no answer: name a model that judges with --judge"),
        (["--judge", "nobody"], "--judge: there is no model nobody; there are small"),
        (["--models", "small,other"], "--models: there is no model other; there are small"),
        (["--judge", "small", "--judge-prompt", "/nowhere"], "cannot read /nowhere"),
        (["--judge", "small", "--result", "("], "no regular expression"),
        (["--out", "rows.csv"], "rows are written as Parquet"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl: No such file"),
    ],
)
async def test_what_is_wrong_is_said_in_a_line(
    more: list[str], complaint: str, command: Command, small: Backend
) -> None:
    command.serves(small=small)
    command.asks(OPEN)
    _, told = await command.run(*more, status=1)
    assert complaint in told
    assert len(told.splitlines()) == 1
    assert not small.calls


async def test_what_is_missing_is_said_before_anybody_is_asked(
    command: Command, small: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.serves(small=small)
    command.asks(SUMS)
    monkeypatch.setattr(outcomes, "WRITES", "nothing_that_there_is")
    _, told = await command.run(status=1)
    assert "install tandem-gateway[train]" in told
    assert not small.calls


async def test_answers_cut_short_are_told_of(command: Command, small: Backend) -> None:
    command.config.write_text(json.dumps(config({"small": small})))
    free = {**config({"small": small}), "models": {"small": {**model(small), "price": {}}}}
    command.config.write_text(json.dumps(free))
    command.asks(SUMS[:1])
    short = chat_answer("It makes", said={"finish_reason": "length"})
    small.plays(answers({**short, "usage": usage(3, 1024)}))
    _, told = await command.run()
    assert "100.0% of small's answers were cut short: raise --max-tokens" in told
    assert "no result was found in 100.0% of small's answers" in told
    assert command.rows.costs is None


# ------------------------------------------------------------------------------------- the pair


@pytest.mark.slow
@pytest.mark.xdist_group("pair")
def test_the_embedded_pair_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "rows.parquet"
    sums = [{"prompt": f"What is {n} + 4?", "answer": str(n + 4)} for n in range(21, 25)]
    prompts.write_text("\n".join(map(json.dumps, sums)))
    words = ["outcomes", "--prompts", str(prompts), "--out", str(out), "--max-tokens", "100"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 4
    assert told["models"]["large"]["mean_score"] == 1
    rows = read_rows([out])
    assert rows.models == ("small", "large")
    assert rows.costs is not None
    assert (rows.costs[:, 1] > rows.costs[:, 0]).all()
    # The pair's models cannot judge, but they say one token.
    prompts.write_text(json.dumps(OPEN[0]))
    assert main([*words, "--judge", "large", "--json"]) == 0
    capsys.readouterr()
    assert len(read_rows([out])) == 1


def test_the_router_that_ships_is_small_and_knows_the_pair() -> None:
    folder = embedded.MODELS / embedded.EXPERTS
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1e6
    card = json.loads((folder / "experts.json").read_text())
    assert card["embedding"] is None  # nothing is loaded for it at start
    sizes = {expert["name"]: expert["params_b"] for expert in card["experts"]}
    assert sizes == pytest.approx(embedded.PARAMS_B)
    assert {each["name"] for each in card["categories"]} == set(KINDS)
