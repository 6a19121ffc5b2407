"""Indexes between requests: found again, under a budget, built once, prepared in the background."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import ref

import numpy as np
import pytest

from policies.composition.embedder import Floats
from policies.reading.index import Index, TooLarge
from policies.reading.recipe import Recipe
from policies.reading.shelf import REFUSED, Shelf, shared

DEADLINE = 20.0


def text(name: str, sentences: int = 100) -> list[str]:
    return [" ".join(f"Sentence {at} of {name}." for at in range(sentences))]


def flat(texts: Sequence[str]) -> Floats:
    return np.ones((len(texts), 1), np.float32)


def test_the_second_question_finds_the_index() -> None:
    shelf = Shelf()
    index = shelf.index(text("a"), Recipe())
    assert shelf.index(text("a"), Recipe(keep=3, pool=9)) is index, "cut alike"
    assert shelf.index(text("a"), Recipe(chunk_tokens=300)) is not index
    assert shelf.index([*text("a"), ""], Recipe()) is not index
    assert (shelf.hits, shelf.misses, len(shelf)) == (1, 3, 3)


def test_the_one_not_used_for_longest_goes() -> None:
    size = Index(text("a")).nbytes
    shelf = Shelf(2.5 * size / 1e6)
    a, b = (shelf.index(text(name), Recipe()) for name in "ab")
    assert shelf.index(text("a"), Recipe()) is a
    shelf.index(text("c"), Recipe())
    assert shelf.held <= shelf.most
    assert shelf.index(text("a"), Recipe()) is a
    assert shelf.index(text("b"), Recipe()) is not b


def test_what_is_larger_than_the_budget_is_used_and_not_kept() -> None:
    shelf = Shelf(2.5 * Index(text("a")).nbytes / 1e6)
    a = shelf.index(text("a"), Recipe())
    large = shelf.index(text("large", 2000), Recipe())
    assert large.nbytes > shelf.most
    assert len(shelf) == 1
    assert shelf.index(text("a"), Recipe()) is a


def test_longer_vectors_than_reckoned_with_push_others_out() -> None:
    shelf = Shelf(3.2 * Index(text("a")).nbytes / 1e6)
    a, b = (shelf.index(text(name), Recipe()) for name in "ab")
    wide = len(a.windows), 4096
    for index in (a, b):
        index.learn(range(wide[0]), np.zeros(wide, np.float32))
    shelf.index(text("b"), Recipe())
    assert shelf.held <= shelf.most
    assert len(shelf) < 2


def test_two_threads_build_one_index() -> None:
    begun, go = threading.Event(), threading.Event()

    def build(texts: Sequence[str], recipe: Recipe) -> Index:
        begun.set()
        assert go.wait(DEADLINE)
        return Index(texts, recipe)

    shelf = Shelf(build=build)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(shelf.index, text("a"), Recipe())
        assert begun.wait(DEADLINE)
        others = [pool.submit(shelf.index, text("a"), Recipe()) for _ in range(2)]
        while shelf.hits < 2:
            threading.Event().wait(0.001)
        go.set()
        assert all(other.result(DEADLINE) is first.result(DEADLINE) for other in others)
    assert (shelf.hits, shelf.misses) == (2, 1)


def test_a_build_that_failed_is_tried_again() -> None:
    failing = [ValueError("this once")]

    def build(texts: Sequence[str], recipe: Recipe) -> Index:
        if failing:
            raise failing.pop()
        return Index(texts, recipe)

    shelf = Shelf(build=build)
    with pytest.raises(ValueError, match="this once"):
        shelf.index(text("a"), Recipe())
    assert len(shelf.index(text("a"), Recipe()).chunks)


def test_what_is_too_large_is_found_out_once() -> None:
    tried = []

    def build(texts: Sequence[str], recipe: Recipe) -> Index:
        tried.append(len(texts))
        raise TooLarge("9 are more than 8")

    shelf = Shelf(build=build)
    for _ in range(3):
        with pytest.raises(TooLarge, match="9 are more than 8"):
            shelf.index(text("a"), Recipe())
    assert tried == [1]
    for number in range(REFUSED):
        with pytest.raises(TooLarge):
            shelf.index(text(str(number), 1), Recipe())
    with pytest.raises(TooLarge):
        shelf.index(text("a"), Recipe())
    assert len(tried) == REFUSED + 2, "only so many are remembered"


def test_policies_that_are_alike_share_a_shelf() -> None:
    shelf = shared(7, "embedder")
    assert shared(7, "embedder") is shelf
    assert shared(8, "embedder") is not shelf
    assert shared(7, "other") is not shelf
    gone = ref(shelf)
    del shelf
    gc.collect()
    assert gone() is None


# -------------------------------------------------------------------------------- the background


def test_the_rest_is_embedded_in_the_background_by_one_thread_that_ends() -> None:
    shelf, names = Shelf(), set[str]()

    def embed(texts: Sequence[str]) -> Floats:
        names.add(threading.current_thread().name)
        return flat(texts)

    indexes = [shelf.index(text(name), Recipe()) for name in "abc"]
    for index in indexes:
        shelf.prepare(index, embed)
    assert shelf.settle(DEADLINE)
    assert not any(len(index.unread()) for index in indexes)
    assert names == {"preparing"}
    assert not [each for each in threading.enumerate() if each.name == "preparing"]
    shelf.prepare(indexes[0], embed)
    assert shelf.settle(0), "nothing was left to do"


def test_what_nobody_holds_is_not_prepared() -> None:
    shelf, begun, go = Shelf(0), threading.Event(), threading.Event()
    seen: list[str] = []

    def embed(texts: Sequence[str]) -> Floats:
        begun.set()
        assert go.wait(DEADLINE)
        seen.extend(texts)
        return flat(texts)

    lasting = shelf.index(text("lasting"), Recipe())
    shelf.prepare(lasting, embed)
    assert begun.wait(DEADLINE)
    shelf.prepare(shelf.index(text("gone"), Recipe()), embed)
    gc.collect()
    go.set()
    assert shelf.settle(DEADLINE)
    assert not len(lasting.unread())
    assert not any("gone" in each for each in seen)


def test_a_failure_is_logged_and_ends_only_that(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()

    def broken(texts: Sequence[str]) -> Floats:
        raise OSError("no model")

    index, other = (shelf.index(text(name), Recipe()) for name in "ab")
    shelf.prepare(other, flat)
    shelf.prepare(index, broken)
    assert shelf.settle(DEADLINE)
    assert len(index.unread())
    assert not len(other.unread())
    assert "could not be prepared" in caplog.text
    assert "Sentence" not in caplog.text


EXIT = """
import threading
import numpy as np
from policies.reading.recipe import Recipe
from policies.reading.shelf import Shelf
shelf, begun = Shelf(), threading.Event()
def embed(texts):
    begun.set()
    threading.Event().wait(0.05)
    return np.ones((len(texts), 1), np.float32)
index = shelf.index(["A sentence of many. " * 20000], Recipe())
shelf.prepare(index, embed)
begun.wait()
print("left", len(index.unread()) > 100)
"""


def test_the_interpreter_ends_in_the_middle_of_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert done.stdout == "left True\n"
    assert not done.stderr
