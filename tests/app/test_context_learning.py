"""Readings are logged, scored, learned from and chosen anew: the loop of the policy `context`."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from app.cli import main
from policies.reading.plan import Planner
from policies.reading.told import Told
from policies.training.context import recipe
from policies.training.context.traffic import read_log
from policies.training.outcomes.tables import write_table
from router.observe import Shadowed
from tests.app.test_gateway_context import REFUSED, ask, reason, tree
from tests.app.test_learning import admin, read, text
from tests.conftest import Started
from tests.policies.reading.lessons import asked
from tests.policies.test_context import WHERE
from tests.running import Config, model
from tests.scripted import Backend, chat_events, streams

WORDS = ("ferry", "Ilse", "Trondheim", "captain")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def logging(
    small: Backend, large: Backend, file: Path, *, prompts: bool = True, **settings: Any
) -> Config:
    document = tree(small, large, **settings)
    return {**document, "decisions": {"file": str(file), "prompts": prompts}}


def learn(home: Path, name: str, *outcomes: str) -> str:
    """An artifact of made-up questions, and perhaps of outcomes."""
    rows, made = home / "rows.parquet", str(home / name)
    lessons = asked(48)
    write_table({"question": lessons.questions, "task": lessons.tasks}, rows)
    named = ["--no-documents", "--rows", str(rows), *outcomes]
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(recipe, "Recipe", partial(recipe.Recipe, folds=3))
        assert main(["train", "context", *named, "--out", made]) == 0
    return made


async def test_bad_scores_of_a_way_change_what_is_chosen(
    gateway: Started,
    small: Backend,
    large: Backend,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    published = learn(tmp_path, "published")
    capsys.readouterr()
    document = logging(small, large, file, readers={"small": {}}, artifact=published)
    document["models"]["small"] = model(small, context=64_000)
    running = await gateway(document)
    ids = []
    for _ in range(30):
        answer = await ask(running, WHERE)
        ids.append(answer.headers["x-request-id"])
    before = reason(answer)
    await ask(running, WHERE)  # nobody says how good that was
    await running.post(model="read")
    async with admin(running) as operator:
        scores = [{"id": name, "score": 0} for name in ids]
        assert (await operator.post("/admin/feedback", json=scores)).status_code == 202
    await read(file, 62)

    learned = learn(tmp_path, "learned", "--outcomes", str(file))
    said = capsys.readouterr().out
    assert "outcomes of your own: 30 of 32\n" in said
    assert f"small: 30 {before}\n" in said
    assert "left out: 1 no_documents, 1 without a score" in said

    async with admin(running) as operator:
        block = {**document["policies"]["read"], "artifact": learned}
        swapped = await operator.put("/admin/policies/read", json=block)
    assert swapped.status_code == 200, swapped.text
    assert {before, reason(await ask(running, WHERE))} == {"passages", "whole"}


async def test_what_comes_of_a_first_pass_is_logged(
    gateway: Started, small: Backend, large: Backend, file: Path
) -> None:
    running = await gateway(
        logging(small, large, file, prompts=False, way="self_route", give_up=1.0)
    )
    small.plays(streams(*chat_events(REFUSED)), streams(*chat_events(["From ", "Trondheim."])))
    ids = [(await ask(running, WHERE, stream=True)).headers["x-request-id"] for _ in range(2)]
    async with admin(running) as operator:
        await operator.post("/admin/feedback", json=[{"id": name, "score": 1} for name in ids])
    lines = await read(file, 4)
    assert [line["arm"] for line in lines if "id" in line] == ["read", "read"]
    own = read_log([file])
    assert [(one.model, one.way) for one in own.answers] == [
        ("small", "whole"),
        ("small", "passages"),
    ]
    assert all(one.question is None for one in own.answers)
    logged = text(file)
    assert not [word for word in WORDS if word in logged]


async def test_a_prompt_that_its_reader_counted_is_logged_as_read(
    gateway: Started, small: Backend, large: Backend, file: Path
) -> None:
    document = logging(small, large, file, way="whole", readers={"large": {}})
    document["models"]["large"]["context"] = 12_000
    running = await gateway(document)
    assert reason(await ask(running, WHERE)) == "whole"
    (line,) = await read(file, 1)
    assert line["arm"] == "read"
    assert line["reason"] == ""
    (said,) = line["said"]
    assert Told.read(said) is not None
    assert line["served"].keys() == {"large"}


async def test_a_reading_is_decided_again_in_a_thread_of_its_own_only(
    gateway: Started, small: Backend, large: Backend, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a shadow reads beside it: neither computes anything on the event loop."""
    planned: list[str] = []
    plan = Planner.plan

    def seen(self: Planner, *arguments: Any) -> Any:
        planned.append(threading.current_thread().name)
        return plan(self, *arguments)

    monkeypatch.setattr(Planner, "plan", seen)
    document = logging(small, large, file, prompts=False)
    document["policies"]["other"] = {**document["policies"]["read"], "way": "passages"}
    running = await gateway({**document, "shadow": "other"})
    answer = await ask(running, WHERE)
    (line,) = await read(file, 1)
    compared = await running.saw(Shadowed)
    assert planned.count("tandem-decisions") == 2
    assert len(planned) == 3
    assert "MainThread" not in planned
    assert compared.shadow_arm in {"small", "large"}
    assert compared.shadow_score is not None
    assert line["said"] == [answer.headers["x-tandem-reason"]]
    assert line["said"] == [f"{line['reason']}; {line['detail']}"]


async def test_such_a_log_is_made_rows_of_and_judged(
    gateway: Started,
    small: Backend,
    large: Backend,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    running = await gateway(logging(small, large, file))
    ids = [(await ask(running, WHERE)).headers["x-request-id"] for _ in range(3)]
    async with admin(running) as operator:
        await operator.post("/admin/feedback", json=[{"id": name, "score": 1} for name in ids])
    await read(file, 6)
    rows = tmp_path / "rows.parquet"
    assert main(["rows", str(file), "--out", str(rows)]) == 0
    assert "3 rows" in capsys.readouterr().out
    arms = {json.loads(line)["arm"] for line in text(file).splitlines()[:3]}
    judging = ["eval", "--log", str(file), "--policy"]
    known = {"use": "context", "readers": {arm: {} for arm in arms}}
    assert main([*judging, json.dumps(known)]) == 0
    assert "3 decisions" in capsys.readouterr().out
    assert main([*judging, json.dumps({**known, "readers": {"other": {}}})]) == 1
    assert capsys.readouterr().err.count("\n") == 1
