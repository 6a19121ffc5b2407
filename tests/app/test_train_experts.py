"""`tandem train experts` and `tandem train prior`: from the command line to the artifact."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from app.cli import main
from policies import TABLE
from policies.composition.artifact import read_artifact
from policies.composition.prior import Prior, shipped
from policies.training.experts import frontier, pipeline, recipe
from policies.training.outcomes.rows import Rows, read_rows
from policies.training.outcomes.tables import write_table
from router.config import load_file, parse
from tests.policies.training.experts.planted import planted

Said = Callable[[], tuple[str, str]]
ROOT = Path(__file__).parents[2]
DRAW = frontier.draw_pictures
FILES = {"experts.json", "experts.safetensors", "grams.json"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For linear algebra: on small arrays several only wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few trees, for which the command has no option, and no pictures, which take half a second."""

    class Quick(recipe.Recipe):
        def __init__(self, **given: Any) -> None:
            super().__init__(**{"folds": 3, "trees": 5, "directions": 4, **given})

    monkeypatch.setattr(recipe, "Recipe", Quick)
    monkeypatch.setattr(frontier, "draw_pictures", lambda *_: ())


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def both() -> tuple[str, str]:
        heard = capsys.readouterr()
        return heard.out, heard.err

    return both


def written(file: Path, rows: Rows, **more: Sequence[Any]) -> str:
    write_table({**rows.columns(), **more}, file)
    return str(file)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return written(tmp_path / "rows.parquet", planted(80))


def train(*arguments: str) -> int:
    return main(["train", "experts", *arguments])


def lexical(rows: str, out: Path, *more: str) -> int:
    return train("--rows", rows, "--out", str(out), "--features", "lexical", *more)


# ------------------------------------------------------------------------------- what comes out


def test_an_artifact_and_a_report_come_out(
    rows: str, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontier, "draw_pictures", DRAW)
    out = tmp_path / "made" / "router"
    assert train("--rows", rows, "--out", str(out), "--no-prior", "--params", "sums=2") == 0
    assert {path.name for path in out.iterdir()} == {*FILES, "curve.png", "reliability.png"}
    for name in ("curve.png", "reliability.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    artifact = read_artifact(out)
    assert artifact.card.embedding is not None
    assert artifact.card.embedding.name.startswith("all-MiniLM-L6-v2")
    assert artifact.card.prior is None
    report, warned = said()
    assert report.startswith(f"{out}: 80 rows, 2 experts, ")
    for part in ("right on", "too uncertain to choose for", "sums: mean score", "APGR", "maps: "):
        assert part in report
    assert f"use it: {{use: experts, artifact: {out}}}" in report
    assert "how many parameters words has" in warned
    assert "Traceback" not in warned


def test_json_is_the_card_with_its_frontier(rows: str, tmp_path: Path, said: Said) -> None:
    assert (
        lexical(rows, tmp_path / "router", "--json", "--params", "words=8", "--params=sums=2") == 0
    )
    out, err = said()
    card = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    stored = json.loads((tmp_path / "router/experts.json").read_text())
    assert {name: stored[name] for name in card} == card
    assert [expert["params_b"] for expert in card["experts"]] == [2, 8]
    assert card["metrics"]["frontier"]["apgr"]["value"] > 0.6
    assert len(card["metrics"]["frontier"]["points"]) == 11
    assert card["data"] == {"files": ["rows.parquet"], "seed": 0, "rows": 80}
    assert not err


def test_what_experts_cost_is_told_or_read(tmp_path: Path, said: Said) -> None:
    costs: dict[str, Sequence[Any]] = {
        "cost/sums": [0.001, *[None] * 79],
        "cost/words": [None] * 80,
    }
    rows = written(tmp_path / "rows.parquet", planted(80), **costs)
    told = ["--params", "SUMS=2", "--usd", "words=0.5", "--memory", "sums=20", "--memory=words=30"]
    assert lexical(rows, tmp_path / "router", *told, "--resident", "35") == 0
    sums, words = read_artifact(tmp_path / "router").card.experts
    assert (sums.params_b, sums.usd, sums.memory_gb) == (2, 0.001, 20)
    assert (words.params_b, words.usd, words.memory_gb) == (None, 0.5, 30)
    card = read_artifact(tmp_path / "router").card
    assert len(card.resident) == 1
    assert {one.unit for one in card.maps} == {"usd", "share"}
    report, warned = said()
    assert "there is no curve" in report
    assert warned.count("\n") == 1, "and no warning of an empty mean"


def test_sizes_are_known_by_name_and_nobody_minds_others(tmp_path: Path, said: Said) -> None:
    held = planted(80)
    named = replace(held, models=("gpt-4-1106-preview", "Qwen2.5-7B-Instruct"))
    rows = written(tmp_path / "rows.parquet", named)
    assert lexical(rows, tmp_path / "router") == 0
    card = read_artifact(tmp_path / "router").card
    assert [expert.params_b for expert in card.experts] == [None, 7.61]
    assert {one.unit for one in card.maps} == {"share"}
    assert "nobody knows how many parameters gpt-4-1106-preview has" in said()[1]


def test_models_are_chosen_in_their_order(tmp_path: Path) -> None:
    held = planted(80)
    three = Rows(
        held.prompts, ("sums", "words", "none"), np.hstack([held.scores, held.scores[:, :1]])
    )
    rows = written(tmp_path / "rows.parquet", three)
    assert lexical(rows, tmp_path / "router", "--models", "words, sums") == 0
    names = [expert.name for expert in read_artifact(tmp_path / "router").card.experts]
    assert names == ["words", "sums"]


def test_seeds_and_clusters_are_kept(rows: str, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        assert lexical(rows, tmp_path / f"r{seed}", "--seed", seed, "--clusters", "3") == 0
    one, other = (read_artifact(tmp_path / name) for name in ("r1", "r2"))
    assert len(one.card.categories) == 3
    assert (one.parts.reference.predicted != other.parts.reference.predicted).any()


def test_an_artifact_is_replaced_as_a_whole(rows: str, tmp_path: Path) -> None:
    assert lexical(rows, tmp_path / "router") == 0
    before = read_artifact(tmp_path / "router").fingerprint
    assert lexical(rows, tmp_path / "router", "--seed", "1") == 0
    assert read_artifact(tmp_path / "router").fingerprint != before


# ---------------------------------------------------------------------- what the pages show


@pytest.fixture
def my_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact that the example names, in the folder where Tandem is started."""
    names = ("Qwen2.5-7B-Instruct", "Qwen2.5-72B-Instruct")
    rows = written(tmp_path / "outcomes.parquet", replace(planted(80), models=names))
    assert lexical(rows, tmp_path / "my-router") == 0
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("my_router")
def test_the_example_is_accepted() -> None:
    document = load_file(ROOT / "deploy/configs/experts.yaml", TABLE)
    assert document.kinds["auto"] == "experts"


@pytest.mark.usefixtures("my_router")
def test_configurations_on_the_page_are_accepted() -> None:
    page = (ROOT / "docs/experts.md").read_text(encoding="utf-8")
    models = "models: {small: {backends: [http://a]}, large: {backends: [http://b]}"
    for name in ("Qwen2.5-7B-Instruct", "Qwen2.5-72B-Instruct"):
        models += f", {name}: {{backends: [http://c]}}"
    shown = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shown += [f"policies: {{auto: {block}}}\n" for block in re.findall(r"-d '(\{.*\})'", page)]
    assert len(shown) == 3
    for block in shown:
        assert parse(f"{models}}}\n{block}default: auto\n", TABLE).kinds["auto"] == "experts"


def test_the_fields_of_a_card_are_on_the_page(rows: str, tmp_path: Path) -> None:
    assert lexical(rows, tmp_path / "router") == 0
    card = json.loads((tmp_path / "router/experts.json").read_text())
    page = (
        (ROOT / "docs/experts.md").read_text(encoding="utf-8").partition("| field of the card")[2]
    )
    told = re.findall("`([a-z_0-9]+)`", page.partition("\n\n")[0])
    inner = {name for each in ("experts", "categories", "maps") for name in card[each][0]}
    inner -= {"experts"}
    metrics = {*card["metrics"], *card["metrics"]["experts"]["sums"]} - {"experts"}
    assert {*card, *inner, *metrics} <= set(told)


# ------------------------------------------------------------------------------------- held rows


def test_held_rows_are_the_reference(rows: str, tmp_path: Path, said: Said) -> None:
    held = written(tmp_path / "held.parquet", planted(40, seed=4))
    assert lexical(rows, tmp_path / "router", "--held", held) == 0
    artifact = read_artifact(tmp_path / "router")
    assert artifact.card.reference == "rows"
    assert len(artifact.parts.reference.actual) == 40
    assert "on 40 rows unseen (rows)" in said()[0]


def test_held_rows_that_were_trained_on_are_left_out(rows: str, tmp_path: Path, said: Said) -> None:
    ours, others = planted(80).at(range(10)), planted(40, seed=4)
    mixed = Rows(
        (*ours.prompts, *others.prompts), ours.models, np.vstack([ours.scores, others.scores])
    )
    held = written(tmp_path / "held.parquet", mixed)
    assert lexical(rows, tmp_path / "router", "--held", held) == 0
    assert "10 of 50 rows held back are left out" in said()[1]
    assert len(read_artifact(tmp_path / "router").parts.reference.actual) == 40
    assert lexical(rows, tmp_path / "router", "--held", rows) == 1
    assert "all of these prompts are among --rows" in said()[1]


# ------------------------------------------------------------------------------------- the prior


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Prior:
    """The shipped prior, one of whose groups knows the planted rows."""
    from policies.composition import prior

    first, *others = shipped().groups
    knowing = replace(first, prompts=prior.hashed(planted(80).prompts))
    found = replace(shipped(), groups=(knowing, *others))
    monkeypatch.setattr(prior, "shipped", lambda: found)
    return found


def test_a_group_that_knows_the_rows_is_left_out(
    known: Prior, rows: str, tmp_path: Path, said: Said
) -> None:
    first, *others = known.names
    assert train("--rows", rows, "--out", str(tmp_path / "router")) == 0
    used = read_artifact(tmp_path / "router").card.prior
    assert used is not None
    assert used.groups == tuple(others)
    assert used.fingerprint == known.fingerprint
    assert f"the prior's {first} left out" in said()[1]


def test_so_is_one_that_knows_rows_held_back(
    known: Prior, rows: str, tmp_path: Path, said: Said
) -> None:
    """Or the rows that budgets are tried on would be foretold from memory."""
    strangers = written(tmp_path / "strangers.parquet", planted(80, seed=9))
    arguments = ["--rows", strangers, "--held", rows, "--out", str(tmp_path / "router")]
    assert train(*arguments) == 0
    assert f"the prior's {known.names[0]} left out" in said()[1]


def test_rows_that_every_group_knows_are_trained_without(
    monkeypatch: pytest.MonkeyPatch, rows: str, tmp_path: Path, said: Said
) -> None:
    from policies.composition import prior

    hashes = prior.hashed(planted(80).prompts)
    groups = tuple(replace(group, prompts=hashes) for group in shipped().groups)
    found = replace(shipped(), groups=groups)
    monkeypatch.setattr(prior, "shipped", lambda: found)
    assert train("--rows", rows, "--out", str(tmp_path / "router")) == 0
    assert read_artifact(tmp_path / "router").card.prior is None
    assert f"the prior's {', '.join(found.names)} left out" in said()[1]


def test_a_prior_is_made_of_sources(rows: str, tmp_path: Path, said: Said) -> None:
    out = tmp_path / "prior"
    assert main(["train", "prior", "--rows", f"mine={rows}", "--out", str(out)]) == 0
    from policies.composition.prior import read_prior

    made = read_prior(out)
    assert made.names == ("mine",)
    assert made.known(planted(80).prompts) == 80
    assert said()[0] == f"{out}: mine (80)\n"


# ------------------------------------------------------------------------------------ what fails


def refused(said: Said) -> str:
    out, err = said()
    assert not out
    assert err.startswith("tandem: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--models", "sums,other"], "the rows hold no model other: they hold sums, words"),
        (["--models", "sums"], "nothing to choose"),
        (["--params", "sums"], "--params sums: write MODEL=NUMBER"),
        (["--params", "sums=nan"], "--params sums=nan: write MODEL=NUMBER"),
        (["--usd", "sums=-1"], "--usd sums=-1: write MODEL=NUMBER"),
        (["--memory", "other=3"], "the rows hold no model other; they hold sums, words"),
        (["--resident", "40"], "say what sums takes: --memory sums=GB"),
        (
            ["--memory", "sums=30", "--memory", "words=30", "--resident", "20"],
            "no choice of experts fits 20 GB of memory",
        ),
        (["--held", "nowhere.parquet"], "nowhere.parquet: No such file"),
        (["--embeddings", "http://127.0.0.1:9"], "name its model with --embeddings-model"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], why: str, rows: str, tmp_path: Path, said: Said
) -> None:
    named = any(option in arguments for option in ("--params", "--models"))
    told = [] if named else ["--params", "sums=2", "--params", "words=8"]
    assert lexical(rows, tmp_path / "router", *told, *arguments) == 1
    assert why in refused(said)
    assert not (tmp_path / "router").exists()


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"prompt": ["a"] * 60}, "has no scores"),
        ({"score/a": [1.0] * 60, "score/b": [0.0] * 60}, "has no column prompt"),
        (
            {"prompt": ["a"] * 60, "score/a": [1.0] * 60, "score/b": [0.0] * 60},
            "1 different prompts are too few to learn from: 50 at least",
        ),
        (
            {"prompt": list("abc"), "score/a": [1.0] * 3, "score/b": [7.0] * 3},
            "7 is not within 0 to 1",
        ),
    ],
)
def test_rows_that_are_wrong_are_one_line(
    columns: Mapping[str, Sequence[Any]], why: str, tmp_path: Path, said: Said
) -> None:
    write_table(columns, tmp_path / "rows.parquet")
    assert lexical(str(tmp_path / "rows.parquet"), tmp_path / "router") == 1
    assert why in refused(said)


def test_a_folder_that_is_a_file_is_said_before_the_work(
    rows: str, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "train", lambda *_: pytest.fail("it worked first"))
    (tmp_path / "router").write_text("a file")
    assert lexical(rows, tmp_path / "router") == 1
    assert f"{tmp_path / 'router'}: is a file: name a folder" in refused(said)


def test_a_prior_that_cannot_be_made_is_one_line(rows: str, tmp_path: Path, said: Said) -> None:
    out = str(tmp_path / "prior")
    for stated, why in (([rows], "write NAME=FILE"), ([f"a={rows}", f"a={rows}"], "a group a")):
        given = [word for one in stated for word in ("--rows", one)]
        assert main(["train", "prior", *given, "--out", out]) == 1
        assert why in refused(said)


def test_without_the_tools_it_is_said(
    rows: str, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("policies.training.experts")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    assert lexical(rows, tmp_path / "router") == 1
    assert "is not installed: install tandem-gateway[train]" in refused(said)


# --------------------------------------------------------------------------- learning from traffic


def logged(file: Path, decisions: int = 240) -> Path:
    """A log of `split`, the answers of half a year scored: one arm a request."""
    held, rng = planted(decisions), random.Random(0)
    lines: list[dict[str, Any]] = []
    for number, prompt in enumerate(held.prompts):
        arm = rng.randrange(2)
        name = held.models[arm]
        lines.append(
            {
                "id": f"req-{number}",
                "surface": "chat/completions",
                "body": {"model": "auto", "messages": [{"role": "user", "content": prompt}]},
                "arm": name,
                "chances": {"sums": 0.5, "words": 0.5},
                "served": {name: 12},
                "status": 200,
                "cost": 0.001,
            }
        )
        lines.append({"feedback": f"req-{number}", "score": held.scores[number, arm]})
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return file


def test_a_log_with_feedback_is_trained_on(tmp_path: Path, said: Said) -> None:
    log, rows = logged(tmp_path / "decisions.jsonl"), str(tmp_path / "rows.parquet")
    assert main(["rows", str(log), "--out", rows]) == 0
    held = read_rows([Path(rows)])
    assert (np.isnan(held.scores).sum(axis=1) == 1).all(), "one arm's score a row"
    assert lexical(rows, tmp_path / "router") == 0
    report, _ = said()
    assert "240 rows, 2 experts" in report
    new = written(tmp_path / "new.parquet", planted(60, seed=8))
    assert main(["predict", str(tmp_path / "router"), "--rows", new, "--out", rows]) == 0
    table = _table(Path(rows))
    right = [("sums", "words")[number % 2] for number in range(60)]
    assert np.mean([one == other for one, other in zip(table["choice"], right, strict=True)]) > 0.9


def _table(file: Path) -> Mapping[str, Sequence[Any]]:
    from policies.training.outcomes.tables import read_table

    return read_table(file).columns
