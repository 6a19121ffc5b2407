"""The questions: each kind draws a formula and words it, as bare arithmetic or as a small story.

Knows ranges of numbers and sentences. Must not know how a solution is written (steps.py), which
seeds belong to whom (problems.py), or anything about models.

Ranges keep every solution between 40 and 150 tokens and every column within four places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from deploy.pair.steps import Formula

NAMES = ("Tom", "Anna", "Ben", "Mia", "Sam", "Eva", "Leo", "Nina", "Max", "Lily", "Omar", "Rosa")
THINGS = ("apples", "pens", "books", "cards", "stamps", "coins", "eggs", "shells", "stickers")
PLACES = ("shop", "market", "school", "farm", "library")
ASKS = (
    "What is {e}?",
    "Compute {e}.",
    "{e} = ?",
    "Please work out {e}.",
    "How much is {e}?",
    "Calculate {e}",
)


@dataclass(frozen=True, slots=True)
class Question:
    """A worded question and the formula that answers it."""

    kind: str
    prompt: str
    formula: Formula


def _ask(words: Random, expression: str) -> str:
    tight = words.random() < 0.3  # most people put spaces around signs, some do not
    shown = expression.replace(" ", "") if tight else expression
    return words.choice(ASKS).format(e=shown)


def _sum(draw: Random, words: Random) -> Question:
    shape = draw.random()
    if shape < 0.4:
        a, b = draw.randint(100, 999), draw.randint(11, 999)
        return Question("sum", _ask(words, f"{a} + {b}"), (a, b, "+"))
    a, b, c = (draw.randint(11, 999) for _ in range(3))
    return Question("sum", _ask(words, f"{a} + {b} + {c}"), (a, b, "+", c, "+"))


def _difference(draw: Random, words: Random) -> Question:
    a = draw.randint(100, 999)
    b = draw.randint(11, a - 11)
    if draw.random() < 0.5:
        return Question("difference", _ask(words, f"{a} - {b}"), (a, b, "-"))
    c = draw.randint(1, a - b)
    return Question("difference", _ask(words, f"{a} - {b} - {c}"), (a, b, "-", c, "-"))


def _mixed(draw: Random, words: Random) -> Question:
    a, b = draw.randint(11, 999), draw.randint(11, 999)
    if draw.random() < 0.5:
        c = draw.randint(11, min(999, a + b - 1))
        return Question("mixed", _ask(words, f"{a} + {b} - {c}"), (a, b, "+", c, "-"))
    a, b = max(a, b), min(a, b)
    c = draw.randint(11, 999)
    return Question("mixed", _ask(words, f"{a} - {b} + {c}"), (a, b, "-", c, "+"))


def _product(draw: Random, words: Random) -> Question:
    shape = draw.random()
    a, b, c = draw.randint(12, 299), draw.randint(2, 9), draw.randint(11, 999)
    if shape < 0.3:
        return Question("product", _ask(words, f"{a} * {b} + {c}"), (a, b, "*", c, "+"))
    if shape < 0.55:
        return Question("product", _ask(words, f"{c} + {a} * {b}"), (c, a, b, "*", "+"))
    if shape < 0.8:
        c = draw.randint(11, min(999, a * b - 1))
        return Question("product", _ask(words, f"{a} * {b} - {c}"), (a, b, "*", c, "-"))
    a, b = draw.randint(12, 299), draw.randint(12, 19)
    return Question("product", _ask(words, f"{a} * {b}"), (a, b, "*"))


def _things(draw: Random, words: Random) -> Question:
    name, other = words.sample(NAMES, 2)
    thing = words.choice(THINGS)
    a, b = draw.randint(20, 999), draw.randint(11, 499)
    c = draw.randint(11, min(999, a + b - 1))
    more = words.choice(("finds", "buys", "gets"))
    less = words.choice((f"gives {c} to {other}", f"sells {c}", f"loses {c}"))
    if draw.random() < 0.5:
        text = f"{name} has {a} {thing}, {more} {b} more and then {less}."
        return Question("things", f"{text} How many {thing} are left?", (a, b, "+", c, "-"))
    a, c = max(a, c), min(a, c)
    less = words.choice((f"gives {c} to {other}", f"sells {c}", f"loses {c}"))
    text = f"{name} has {a} {thing}, {less} and then {more} {b} more."
    return Question("things", f"{text} How many {thing} now?", (a, c, "-", b, "+"))


def _shop(draw: Random, words: Random) -> Question:
    name, (thing, extra) = words.choice(NAMES), words.sample(THINGS, 2)
    where = words.choice(PLACES)
    price, count = draw.randint(11, 99), draw.randint(2, 9)
    shape = draw.random()
    start = f"At the {where} {name} buys {count} {thing} at {price} dollars each"
    if shape < 0.35:
        purse = price * count + draw.randint(1, 300)
        text = f"{start} and has {purse} dollars. How much money is left?"
        return Question("shop", text, (purse, price, count, "*", "-"))
    if shape < 0.7:
        fee = draw.randint(11, 400)
        text = f"{start} and pays {fee} dollars more for a bag. What is the total?"
        return Question("shop", text, (price, count, "*", fee, "+"))
    second, number = draw.randint(11, 99), draw.randint(2, 9)
    text = f"{start} and {number} {extra} at {second} dollars each. What is the total?"
    return Question("shop", text, (price, count, "*", second, number, "*", "+"))


def _distance(draw: Random, words: Random) -> Question:
    what = words.choice(("train", "bus", "car", "ship"))
    speed, hours, rest = draw.randint(21, 199), draw.randint(2, 9), draw.randint(11, 600)
    way = f"A {what} goes {speed} km an hour for {hours} hours"
    if draw.random() < 0.5:
        text = f"{way} and then {rest} km more. How far does it go?"
        return Question("distance", text, (speed, hours, "*", rest, "+"))
    whole = speed * hours + rest
    text = f"The way is {whole} km long. {way}. How many km are left?"
    return Question("distance", text, (whole, speed, hours, "*", "-"))


def _money(draw: Random, words: Random) -> Question:
    name = words.choice(NAMES)
    each, weeks, start = draw.randint(11, 99), draw.randint(2, 9), draw.randint(11, 800)
    if draw.random() < 0.5:
        text = f"{name} has {start} dollars and saves {each} dollars a week for {weeks} weeks."
        text = f"{text} How many dollars now?"
        return Question("money", text, (each, weeks, "*", start, "+"))
    start = draw.randint(11, 999 - each * weeks)  # three steps: keep them to three places
    text = f"{name} has {start} dollars and saves {each} dollars a week for {weeks} weeks."
    spent = draw.randint(11, min(900, each * weeks + start - 1))
    text = f"{text} Then {name} spends {spent} dollars. How many dollars are left?"
    return Question("money", text, (each, weeks, "*", start, "+", spent, "-"))


def everyday(draw: Random, words: Random) -> Question:
    """What people type first: tiny sums, and the old story in other words.

    Too short, or too few, to be measured by: only the training text has them.
    """
    shape = draw.random()
    most = words.choice((9, 20, 99))
    a, b = draw.randint(1, most), draw.randint(1, most)
    if shape < 0.25:
        return Question("everyday", _ask(words, f"{a} + {b}"), (a, b, "+"))
    if shape < 0.45:
        a, b = max(a, b), min(a, b)
        return Question("everyday", _ask(words, f"{a} - {b}"), (a, b, "-"))
    if shape < 0.65:
        b = draw.randint(2, 9)
        return Question("everyday", _ask(words, f"{a} * {b}"), (a, b, "*"))
    return _told_otherwise(draw, words)


def _told_otherwise(draw: Random, words: Random) -> Question:
    who, they = words.choice(
        (
            ("A shop", "It"),
            ("A farm", "It"),
            ("A school", "It"),
            *((name, "Then") for name in NAMES),
        )
    )
    they = who if they == "Then" else they
    thing = words.choice(THINGS)
    a, b = draw.randint(11, 499), draw.randint(2, 299)
    a, b = max(a, b), min(a, b)
    c = draw.randint(2, 299)
    lose, gain = words.choice(("sells", "loses", "gives")), words.choice(("buys", "gets", "finds"))
    away = f"{lose} {b} away" if lose == "gives" else f"{lose} {b}"
    ask = words.choice(
        (
            f"How many {thing} are there now?",
            f"How many {thing} are left?",
            f"How many {thing} now?",
        )
    )
    start = f"{who} has {a} {thing}. {they}"
    if draw.random() < 0.6:
        told = f"{start} {away} and then {gain} {c} more. {ask}"
        return Question("everyday", told, (a, b, "-", c, "+"))
    told = f"{start} {gain} {c} more and then {away}. {ask}"
    return Question("everyday", told, (a, c, "+", b, "-"))


KINDS: dict[str, Callable[[Random, Random], Question]] = {
    "sum": _sum,
    "difference": _difference,
    "mixed": _mixed,
    "product": _product,
    "things": _things,
    "shop": _shop,
    "distance": _distance,
    "money": _money,
}


def question(kind: str, draw: Random, words: Random) -> Question:
    """One question of this kind: `draw` gives the numbers, `words` the wording."""
    return KINDS[kind](draw, words)
