"""`tandem corpus`: what it makes of files, how it goes on after a break, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import app.corpus_files
from app.cli import main
from policies.reading.corpus import load


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs/sub").mkdir(parents=True)
    (tmp_path / "docs/a.txt").write_text("The first.")
    (tmp_path / "docs/sub/b.md").write_text("The second.")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    """What a command prints, as JSON."""
    assert main(["corpus", *arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_corpus_from_files_to_the_end(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert main(["corpus", "add", "book", "docs"]) == 0
    line = "corpora/book: 2 documents, 21 characters, revision 1"
    assert line in capsys.readouterr().out
    assert [d.id for d in load(here / "corpora/book").documents] == ["a.txt", "sub/b.md"]
    (here / "docs/a.txt").write_text("The newest.")
    assert said(capsys, "add", "book", "docs")["revision"] == 2
    (here / "docs/a.txt").unlink()
    assert said(capsys, "add", "book", "docs")["documents"] == 2
    assert said(capsys, "add", "book", "docs", "--replace")["documents"] == 1
    assert said(capsys, "list")[0]["name"] == "book"
    shown = said(capsys, "show", "book")
    assert shown["entries"][0]["path"] == "docs/sub/b.md"
    assert main(["corpus", "show", "book"]) == 0
    assert "sub/b.md" in capsys.readouterr().out
    assert said(capsys, "remove", "book", "sub/b.md")["documents"] == 0
    said(capsys, "remove", "book")
    assert said(capsys, "list") == []
    assert main(["corpus", "list"]) == 0
    assert capsys.readouterr().out == "there is no corpus in corpora\n"


def test_a_damaged_corpus_is_told_beside_the_others(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    for name in ("book", "notes"):
        assert main(["corpus", "add", name, "docs"]) == 0
    (here / "corpora/book/manifest.json").write_text("{")
    capsys.readouterr()
    assert main(["corpus", "list"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("corpora/notes: 2 documents")
    assert told.err.startswith("tandem: corpora/book/manifest.json: ")


def test_files_that_are_known_are_not_read_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    """A command that is cut off has kept what it read, and goes on from there."""
    real = app.corpus_files.document_of
    seen: list[str] = []

    def counting(name: str, data: bytes) -> Any:
        if name == "sub/b.md" and len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(name)
        return real(name, data)

    monkeypatch.setattr(app.corpus_files, "document_of", counting)
    monkeypatch.setattr("app.corpus.AT_ONCE", 1)
    assert main(["corpus", "add", "book", "docs"]) == 130
    assert seen == ["a.txt"]
    seen.append("the second time")
    assert said(capsys, "add", "book", "docs")["documents"] == 2
    assert seen[1:] == ["the second time", "sub/b.md"]
    assert said(capsys, "add", "book", "docs")["revision"] == 2


def test_what_is_wrong_is_said_in_a_line(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "docs/c.pdf").write_bytes(b"no PDF")
    assert main(["corpus", "add", "book", "docs", "nothing.txt"]) == 1
    printed = capsys.readouterr()
    assert "c.pdf: it cannot be read as a PDF" in printed.err
    assert "nothing.txt: No such file" in printed.err
    assert "2 documents" in printed.out
    for arguments, why in (
        (["show", "other"], "there is no corpus 'other'"),
        (["remove", "book", "other"], "has no document 'other'"),
        (["add", "../book", "docs"], "a corpus's name"),
        (["add", "new", "docs/c.pdf"], "c.pdf: it cannot be read"),
        (["list", "--config", "none.yaml"], "none.yaml: No such file"),
    ):
        assert main(["corpus", *arguments]) == 1
        assert why in capsys.readouterr().err


def test_the_configuration_says_where_and_how_much(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    config = here / "gateway.yaml"
    config.write_text("models: {a: {backends: [http://a]}}\ncorpora: {folder: kept, limit_mb: 1}\n")
    made = said(capsys, "add", "book", "docs", "--config", str(config))
    assert made["folder"] == "kept/book"
    (here / "docs/large.txt").write_text("x" * 2_000_000)
    assert main(["corpus", "add", "book", "docs", "--config", str(config)]) == 1
    assert "corpora.limit_mb" in capsys.readouterr().err
    for text, why in (
        ("corpora: {folders: x}", "corpora.folders: there is no such setting"),
        ("corpora: 7", "gateway.yaml: corpora: "),
        ("corpora: [", "cannot be read"),
    ):
        config.write_text(text)
        assert main(["corpus", "list", "--config", str(config)]) == 1
        assert why in capsys.readouterr().err


def test_vectors_are_made_once(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    said(capsys, "add", "book", "docs")
    made = said(capsys, "embed", "book")
    assert (made["windows"], made["embedded"]) == (2, 2)
    assert said(capsys, "embed", "book", "--chunk-tokens", "200")["embedded"] == 0
    (here / "docs/a.txt").write_text("Another one.")
    said(capsys, "add", "book", "docs")
    assert said(capsys, "embed", "book")["embedded"] == 1
    assert main(["corpus", "embed", "other"]) == 1
