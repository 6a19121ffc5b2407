"""The search's benchmark: it counts what it says, on a folder made for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.bench import retrieval_speed
from app.bench.retrieval_rows import Row, bearing, half, read, section
from app.cli import main
from policies.reading.documents import Passage
from policies.training.outcomes.errors import RowsError

PLACES = ("harbour", "orchard", "foundry", "library", "quarry")


def part(place: str) -> str:
    """A fifth of a book: about one place, and one fact of it."""
    talk = " ".join(f"Nobody at the {place} was late on day {day}." for day in range(60))
    return f"{talk} The keeper of the {place} was called {place.title()}son Wren. {talk}\n\n"


def write(folder: Path, **changes: str) -> None:
    (folder / "contexts_32k/book").mkdir(parents=True)
    rows = []
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / "contexts_32k/book" / name).write_text("".join(map(part, PLACES)))
        for at, place in enumerate(PLACES):
            row = {"task": "location", "context_type": "book", "file": name}
            row |= {"context_order": str(at), "question": f"Who was the keeper of the {place}?"}
            rows.append({**row, "answer": f"{place.title()}son Wren", **changes})
    rows.append({**rows[0], "task": "comp", "context_order": "[0, 1]"})
    (folder / "questions_32k.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.slow
def test_the_command_prints_what_programs_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    few = ["--tokens", "9000", "--asks", "4", "--repetitions", "1", "--megabytes", "1"]
    status = main(["bench", "retrieval", "--data", str(tmp_path), *few, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == (0 if report["met"] else 1)
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert figures["all, section in 5: hybrid, as served"]["value"] == 1
    assert figures["all, answer in the first: BM25 alone"]["value"] == 1
    assert figures["all, answer in 5: words alone"]["note"] == "book 1.000 of 15"
    assert figures["first question"]["target"] == "<= 3"
    assert figures["decision, later questions: p99"]["target"] == "<= 50"
    assert figures["later, after the background: p99"]["target"] == "<= 50"
    assert figures["1 MB of text: held, the text included"]["value"] > 1
    assert figures["held, the text included"]["value"] > 0
    assert any("15 questions about 3 documents, 15 with" in each for each in report["remarks"])


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "questions_32k.jsonl").unlink(), "No such file"),
        (lambda folder: (folder / "contexts_32k/book/b.txt").unlink(), "b.txt: cannot be read"),
        (lambda folder: write(folder / "x", task="comp"), "no question of the task location"),
        (lambda folder: write(folder / "x", context_order="full"), "row 1, is no number: full"),
    ],
)
def test_what_is_wrong_with_the_data_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: object, said: str
) -> None:
    write(tmp_path)
    assert callable(break_it)
    break_it(tmp_path)
    folder = tmp_path / "x" if (tmp_path / "x").exists() else tmp_path
    assert main(["bench", "retrieval", "--data", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "questions_32k.csv").write_text("task,file\nlocation,a\n")
    with pytest.raises(RowsError, match="column context_type"):
        read(tmp_path, "32k")


def test_sections_are_fifths_or_stand_between_tags() -> None:
    book = Row("book", "a", 2, "?", "!")
    assert section(book, "x" * 100) == (40, 60)
    papers = "<paper 0>one<paper 1>two"
    assert [papers[slice(*section(Row("paper", "a", at, "?", "!"), papers))] for at in (0, 1)] == [
        "<paper 0>one",
        "<paper 1>two",
    ]


def test_an_answer_is_borne_by_what_holds_its_words_within_the_section() -> None:
    text = "x" * 100
    row = Row("book", "a", 0, "Who kept the keys?", "It was old Wren who kept them")
    said = ("old Wren", "old Wren and the keys", "Wren", "old keys")
    places = [Passage(0, at * 30, at * 30 + 10, each) for at, each in enumerate(said)]
    assert bearing(row, text, places) == {0}
    assert bearing(row, text, places[1:]) == {0}, "outside, for want of one inside"
    assert bearing(row, text, places[2:]) == set()


def test_halves_are_those_of_other_commands() -> None:
    from app.rows import _part_of

    names = [f"{at}.txt" for at in range(50)]
    assert [half(name) for name in names] == [_part_of(name, 2) for name in names]


def test_the_long_document_has_its_tokens(tmp_path: Path) -> None:
    from policies.reading.counting import tokens

    write(tmp_path)
    text = retrieval_speed.document(read(tmp_path, "32k"), 20_000)
    assert tokens(text) == pytest.approx(20_000, rel=0.01)
