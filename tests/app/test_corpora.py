"""Corpora on disk: what a change leaves, wherever it is cut off, and what a reader sees of it."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.corpora import (
    Corpora,
    Given,
    StaleCorpusError,
    TooLargeError,
    UnknownCorpusError,
    write_whole,
)
from policies.reading.corpus import (
    LOOK,
    MANIFEST,
    Corpus,
    CorpusError,
    load,
    read_manifest,
    text_path,
)
from policies.reading.documents import Document

ONE = Given("1", "One", "The first.", "one.txt")
TWO = Given("2", "Two", "The second.")


@pytest.fixture
def corpora(tmp_path: Path) -> Corpora:
    return Corpora(tmp_path / "corpora", 1 << 20)


def texts(corpora: Corpora, name: str = "book") -> dict[str, str]:
    return {d.id: d.text for d in load(corpora.folder / name).documents}


def test_a_corpus_is_made_changed_and_removed(corpora: Corpora) -> None:
    made = corpora.put("book", [ONE, TWO])
    assert (made.name, made.revision, made.characters) == ("book", 1, 21)
    assert load(corpora.folder / "book").documents == (
        Document("1", "One", "The first."),
        Document("2", "Two", "The second."),
    )
    assert corpora.put("book", [ONE]) == made, "nothing changed"
    changed = corpora.put("book", [Given("1", "One", "New."), Given("3", "", "Third.")])
    assert (changed.revision, changed.etag != made.etag) == (2, True)
    assert texts(corpora) == {"1": "New.", "2": "The second.", "3": "Third."}
    assert len(list((corpora.folder / "book/texts").iterdir())) == 3, "the old text is gone"
    assert corpora.take("book", "2").revision == 3
    assert texts(corpora).keys() == {"1", "3"}
    assert corpora.put("book", [TWO], anew=True).revision == 4
    assert corpora.keep("book", {"2"}).revision == 4
    assert [each.name for each in corpora.every()] == ["book"]
    corpora.drop("book")
    assert corpora.every() == []
    assert not (corpora.folder / "book").exists()
    assert corpora.put("book", [ONE]).revision == 1


@pytest.mark.parametrize("name", ["", "..", "a/b", ".a", "-", "a b", "a" * 129, "\u00e9", "a\n"])
def test_names_that_are_none(corpora: Corpora, name: str) -> None:
    for change in (
        lambda: corpora.put(name, [ONE]),
        lambda: corpora.one(name),
        lambda: corpora.drop(name),
    ):
        with pytest.raises(CorpusError, match="a corpus's name"):
            change()
    assert not corpora.folder.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        Given("", "", "x"),
        Given("a\n", "", "x"),
        Given("a", "b" * 513, "x"),
        Given("a", "", "\ud800"),
    ],
)
def test_documents_that_cannot_be_kept(corpora: Corpora, wrong: Given) -> None:
    with pytest.raises(CorpusError):
        corpora.put("book", [ONE, wrong])
    assert corpora.every() == []


def test_what_is_damaged_is_told_and_hides_no_other(corpora: Corpora) -> None:
    for name in ("book", "notes"):
        corpora.put(name, [ONE])
    (corpora.folder / "book" / MANIFEST).write_text("{")
    assert [each.name for each in corpora.every()] == ["notes"]
    (why,) = corpora.damaged()
    assert "book" in why


def test_what_is_not_there_has_changed_or_is_too_large(corpora: Corpora) -> None:
    with pytest.raises(UnknownCorpusError):
        corpora.one("book")
    with pytest.raises(UnknownCorpusError):
        corpora.put("book", [ONE], expected=frozenset({"x"}))
    etag = corpora.put("book", [ONE]).etag
    corpora.put("book", [TWO], expected=frozenset({"x", etag}))
    for change in (
        lambda: corpora.put("book", [ONE], expected=frozenset({etag})),
        lambda: corpora.take("book", "1", frozenset({etag})),
        lambda: corpora.drop("book", frozenset({etag})),
    ):
        with pytest.raises(StaleCorpusError):
            change()
    with pytest.raises(UnknownCorpusError):
        corpora.take("book", "7")
    with pytest.raises(TooLargeError):
        corpora.put("book", [Given("3", "", "x" * (1 << 20))])
    assert texts(corpora).keys() == {"1", "2"}


class Crash(BaseException):
    """The machine goes down."""


STEPS: dict[str, Callable[[Corpora], object]] = {
    "add": lambda corpora: corpora.put("book", [Given("1", "", "New."), Given("3", "", "Third.")]),
    "replace": lambda corpora: corpora.put("book", [TWO, Given("4", "", "4.")], anew=True),
    "remove": lambda corpora: corpora.take("book", "1"),
    "drop": lambda corpora: corpora.drop("book"),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_change_that_is_cut_off_anywhere_leaves_the_old_or_the_new(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Corpora(tmp_path / "whole", 1 << 20)
    whole.put("book", [ONE, TWO])
    old = texts(whole)
    STEPS[step](whole)
    new = texts(whole) if whole.every() else None
    seen = []
    for at in range(100):
        corpora = Corpora(tmp_path / str(at), 1 << 20)
        corpora.put("book", [ONE, TWO])
        with monkeypatch.context() as patched:
            calls = crash_at(patched, at)
            try:
                STEPS[step](corpora)
            except Crash:
                left = texts(corpora) if corpora.every() else None
                assert left in (old, new), f"after {calls[-1]}"
                seen.append(left == new)
            else:
                break
        corpora.put("book", [ONE, TWO], anew=True)
        assert texts(corpora) == old
        assert len(list((corpora.folder / "book").rglob("*"))) == 4, "leftovers"
    assert len(seen) > 2
    assert seen == sorted(seen), "once it is new it stays so"
    assert True in seen


def crash_at(patched: pytest.MonkeyPatch, at: int) -> list[str]:
    """Let the change number `at` to the disk, from 0, not happen, nor any after it."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if len(calls) > at:
                raise Crash
            calls.append(f"{name} {arguments}")
            if len(calls) > at:
                raise Crash
            return real(*arguments, **named)

        return call

    for owner, name in ((os, "fsync"), (Path, "replace"), (os, "unlink"), (os, "rmdir")):
        patched.setattr(owner, name, counted(name, getattr(owner, name)))
    return calls


def test_two_writers_do_not_lose_each_others_documents(corpora: Corpora) -> None:
    def add(start: int) -> None:
        for number in range(start, start + 10):
            corpora.put("book", [Given(str(number), "", f"Text {number}.")])

    writers = [threading.Thread(target=add, args=(start,)) for start in (0, 100, 200)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(texts(corpora)) == 30
    assert corpora.one("book").revision == 30


@settings(max_examples=15)
@given(st.dictionaries(st.from_regex(r"[a-z0-9/. -]{1,20}", fullmatch=True), st.text()))
def test_any_text_comes_back_as_it_was(tmp_path_factory: Any, given_: dict[str, str]) -> None:
    corpora = Corpora(tmp_path_factory.mktemp("corpora"), 1 << 20)
    wanted = {key: text for key, text in given_.items() if key.strip()}
    corpora.put("book", [Given(key, "", text) for key, text in wanted.items()])
    assert texts(corpora) == wanted


def test_a_full_disk_leaves_the_former_corpus_and_nothing_else(
    corpora: Corpora, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora.put("book", [ONE])
    before = sorted(file.name for file in (corpora.folder / "book").rglob("*"))
    written = iter([None, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])

    def full(_: int) -> None:
        if (error := next(written)) is not None:
            raise error

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as failed:
        corpora.put("book", [TWO, Given("3", "", "The third.")])
    assert failed.value.filename.startswith(str(corpora.folder / "book"))
    assert sorted(file.name for file in (corpora.folder / "book").rglob("*")) == before
    assert texts(corpora) == {ONE.id: ONE.text}


# --------------------------------------------------------------------------------- the reader


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def read(corpora: Corpora) -> Callable[[], Any]:
    clock = Clock()
    corpus = Corpus(corpora.folder / "book", clock)

    def now() -> Any:
        clock.now += LOOK
        return corpus.now()

    return now


def test_a_reader_sees_every_change(corpora: Corpora, read: Callable[[], Any]) -> None:
    assert read().documents == ()
    assert "there is no corpus" in read().trouble
    corpora.put("book", [ONE])
    first = read()
    assert (first.revision, first.trouble, len(first.documents)) == (1, "", 1)
    assert read() is first, "nothing is read twice"
    corpora.put("book", [Given("9", "", "The first.")], anew=True)
    second = read()
    assert (second.revision, second.digest) == (2, first.digest)
    corpora.drop("book")
    assert read().documents == ()


def test_a_reader_looks_at_most_once_a_second(corpora: Corpora) -> None:
    clock = Clock()
    corpus = Corpus(corpora.folder / "book", clock)
    corpora.put("book", [ONE])
    held = corpus.now()
    corpora.put("book", [TWO])
    clock.now += LOOK / 2
    assert corpus.now() is held
    clock.now += LOOK / 2
    assert corpus.now().revision == 2


def another_text(folder: Path) -> None:
    text_path(folder, entry(folder)["digest"]).write_text("Evil.")
    changed(folder, "revision", 7)


BREAKS: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda folder: write_whole(folder / MANIFEST, b"{"),
    "deep JSON": lambda folder: write_whole(folder / MANIFEST, b"[" * 100_000),
    "other format": lambda folder: write_whole(folder / MANIFEST, b'{"format": 2}'),
    "no documents": lambda folder: changed(folder, "documents", None),
    "a path": lambda folder: changed(folder, "documents", [entry(folder) | {"digest": "../x"}]),
    "an entry": lambda folder: changed(folder, "documents", [7]),
    "a lost text": lambda folder: changed(folder, "documents", [entry(folder) | {"digest": "ab"}]),
    "another text": another_text,
}


def entry(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())["documents"][0]
    return found


def changed(folder: Path, key: str, value: Any) -> None:
    tree = json.loads((folder / MANIFEST).read_bytes()) | {key: value}
    write_whole(folder / MANIFEST, json.dumps(tree).encode())


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_corpus_leaves_the_former_documents(
    name: str, corpora: Corpora, read: Callable[[], Any]
) -> None:
    corpora.put("book", [ONE])
    first = read()
    BREAKS[name](corpora.folder / "book")
    broken = read()
    assert (broken.documents, broken.digest) == (first.documents, first.digest)
    assert str(corpora.folder) in broken.trouble
    with pytest.raises(CorpusError):
        load(corpora.folder / "book")
    corpora.folder.joinpath("book", MANIFEST).unlink()
    corpora.put("book", [ONE, TWO])
    assert (len(read().documents), read().trouble) == (2, "")


def test_a_manifest_says_nothing_of_the_machine_but_what_was_given(corpora: Corpora) -> None:
    corpora.put("book", [ONE])
    told = (corpora.folder / "book" / MANIFEST).read_text()
    assert str(corpora.folder) not in told
    assert read_manifest(corpora.folder / "book").entries[0].path == "one.txt"


def test_readers_and_a_writer_at_once(corpora: Corpora) -> None:
    """Whatever is read is one revision: two documents that say the same."""
    clock = Clock()
    corpus = Corpus(corpora.folder / "book", clock)
    done = threading.Event()
    wrong: list[str] = []

    def look() -> None:
        while not done.is_set():
            clock.now += LOOK
            held = corpus.now()
            if len({document.text for document in held.documents}) > 1:
                wrong.append(str(held))

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(10):
        corpora.put("book", [Given("a", "", f"{number}"), Given("b", "", f"{number}")])
    done.set()
    for reader in readers:
        reader.join()
    clock.now += LOOK
    assert not wrong
    assert corpus.now().revision == 10
