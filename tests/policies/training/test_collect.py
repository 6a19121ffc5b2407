"""The stages against scripted servers: what they find out, ask only once, and refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from policies.training.token_gate import endpoint
from policies.training.token_gate.collect import Asking, Found, collect
from policies.training.token_gate.dataset import Examples, Split, build
from policies.training.token_gate.errors import TrainingError
from policies.training.token_gate.results import ResultFinder
from tests.policies.training import made_up
from tests.policies.training.made_up import Model
from tests.scripted import Backend, scripted


@pytest.fixture
def asking(small: Backend, large: Backend) -> Asking:
    return made_up.asking(small, large)


@pytest.fixture
def writes(small: Backend, tmp_path: Path) -> Model:
    """The small model."""
    return Model(small, tmp_path)


@pytest.fixture
def knows(large: Backend) -> Model:
    """The large model."""
    return Model(large)


@pytest.fixture
async def judge() -> AsyncIterator[Backend]:
    async with scripted("judge") as backend:
        yield backend


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE", 0.0)


def examples(found: Found, folder: Path) -> Examples:
    split = Split(0, 0.5)
    return build(found.answers, found.traces.rows, found.verdicts.rows, folder, split)


async def test_tokens_are_labelled_by_what_becomes_of_the_answer(
    asking: Asking, writes: Model, knows: Model, tmp_path: Path
) -> None:
    found = await collect(asking, made_up.prompts(), tmp_path / "work", tmp_path)
    marks = {id_: row["divergent"] for id_, row in found.verdicts.rows.items()}
    assert marks == {"p0:0": False, "p0:3": True, "p1:0": False, "p2:0": False, "p2:3": True}
    assert all(row["by"] == "answer" for row in found.verdicts.rows.values())
    made = examples(found, tmp_path)
    written = "".join(made_up.text([*each.answer]) + "|" for each in found.answers)
    assert written == "so 7.|so 10.|so 7. ok|"
    wrong = [chr(each) for each in made.predicted[made.divergent]]
    assert wrong == ["8", "8"]
    assert made.differs.sum() == 5
    assert made.hidden is not None
    assert made.hidden.shape == (len(made), made_up.HIDDEN)
    assert made.logits.shape == (len(made), made_up.TOP)
    assert np.isclose(sum(made.shares().values()), 1)


async def test_a_prompt_is_learned_from_or_tested_on_as_a_whole(
    asking: Asking, writes: Model, knows: Model, tmp_path: Path
) -> None:
    found = await collect(asking, made_up.prompts(), tmp_path / "work", tmp_path)
    held = examples(found, tmp_path).held
    starts = np.cumsum([0, *(len(each.answer) for each in found.answers)])
    parts = [held[begin:end] for begin, end in pairwise(starts)]
    assert all(part.all() or not part.any() for part in parts)
    shares = [Split(7, 0.2).held(f"p{at}") for at in range(2000)]
    assert 0.17 < sum(shares) / len(shares) < 0.23


async def test_a_broken_run_goes_on_and_asks_nothing_twice(
    asking: Asking, writes: Model, knows: Model, tmp_path: Path
) -> None:
    work, asking = tmp_path / "work", replace(asking, at_once=1)
    knows.refuses = {"2+5"}
    with pytest.raises(TrainingError, match=r"the large model's server answers .* with 400"):
        await collect(asking, made_up.prompts(), work, tmp_path)
    assert sum(knows.told.values()) == 2, "the other answers were kept"
    knows.refuses = set()
    writes.gate = False
    with pytest.raises(TrainingError, match="runs without the token gate"):
        await collect(asking, made_up.prompts(), work, tmp_path)
    writes.gate = True
    await collect(asking, made_up.prompts()[:2], work, tmp_path)
    first = await collect(asking, made_up.prompts(), work, tmp_path)
    asked = knows.told.copy(), writes.told.copy()
    assert set(knows.told.values()) == {1}
    again = await collect(asking, made_up.prompts(), work, tmp_path)
    assert (knows.told, writes.told) == asked
    assert examples(again, tmp_path).hash == examples(first, tmp_path).hash


async def test_a_server_that_is_full_is_asked_again(
    asking: Asking, writes: Model, knows: Model, tmp_path: Path
) -> None:
    knows.full = 3
    found = await collect(asking, made_up.prompts(), tmp_path / "work", tmp_path)
    assert len(found.answers) == 3


async def test_wrong_answers_of_the_large_model_take_no_part(
    asking: Asking, writes: Model, knows: Model, tmp_path: Path
) -> None:
    prompts = made_up.prompts()
    prompts[1] = replace(prompts[1], answer="11")
    found = await collect(asking, prompts, tmp_path / "work", tmp_path)
    assert [each.id for each in found.answers] == ["p0", "p2"]
    assert found.wrong == 1


async def test_no_right_answer_at_all_is_an_error(
    asking: Asking, writes: Model, knows: Model, tmp_path: Path
) -> None:
    odd = replace(asking, results=ResultFinder("= (.*)"))
    with pytest.raises(TrainingError, match="--result, now = "):
        await collect(odd, made_up.prompts(), tmp_path / "work", tmp_path)


async def test_a_judge_decides_where_no_answer_is_known(
    small: Backend, large: Backend, judge: Backend, tmp_path: Path
) -> None:
    Model(small, tmp_path)
    Model(large)
    says = Model(judge)
    says.reply = "They agree.\nSAME"
    asking = made_up.asking(small, large, judge)
    found = await collect(asking, made_up.prompts(known=False), tmp_path / "work", tmp_path)
    assert {row["divergent"] for row in found.verdicts.rows.values()} == {False}
    told = next(each for each in says.chats if "2+5" in each and "so 8. ok" not in each)
    assert "{" not in told
    assert any("\nso \n" in each and "\n8. ok\n" in each for each in says.chats)


async def test_tokens_without_a_verdict_are_left_out(
    small: Backend, large: Backend, judge: Backend, tmp_path: Path
) -> None:
    Model(small, tmp_path)
    Model(large)
    Model(judge).reply = "who knows"
    asking = made_up.asking(small, large, judge)
    found = await collect(asking, made_up.prompts(known=False), tmp_path / "work", tmp_path)
    made = examples(found, tmp_path)
    assert not made.differs.any()
    assert len(made) == sum(len(each.answer) for each in found.answers) - 5


async def test_prompts_without_answers_need_a_judge(
    asking: Asking, writes: Model, knows: Model, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="--judge"):
        await collect(asking, made_up.prompts(known=False), tmp_path / "work", tmp_path)


async def test_models_of_two_vocabularies_are_refused(
    asking: Asking, writes: Model, large: Backend, tmp_path: Path
) -> None:
    Model(large, shift=1)
    with pytest.raises(TrainingError, match=r"tokenizers differ: '3\+4' is \[51"):
        await collect(asking, made_up.prompts(), tmp_path / "work", tmp_path)


async def test_other_settings_need_another_folder(
    asking: Asking, writes: Model, knows: Model, tmp_path: Path
) -> None:
    await collect(asking, made_up.prompts(), tmp_path / "work", tmp_path)
    longer = replace(asking, max_tokens=100)
    with pytest.raises(TrainingError, match="max_tokens = 4096, and this is 100"):
        await collect(longer, made_up.prompts(), tmp_path / "work", tmp_path)


async def test_a_server_with_several_models_must_be_told_which(
    asking: Asking, small: Backend, tmp_path: Path
) -> None:
    Model(small)
    small.serves = ("a", "b")
    with pytest.raises(TrainingError, match=r"serves a, b: say which .* --small-model"):
        await collect(asking, made_up.prompts(), tmp_path / "work", tmp_path)
    named = replace(asking, small=replace(asking.small, model="c"))
    with pytest.raises(TrainingError, match="does not serve c, only a, b"):
        await collect(named, made_up.prompts(), tmp_path / "work", tmp_path)


async def test_traces_in_another_folder_are_missed(
    asking: Asking, writes: Model, knows: Model, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    with pytest.raises(TrainingError, match=f"TANDEM_GATE_TRACES={other}"):
        await collect(asking, made_up.prompts(), tmp_path / "work", other)
