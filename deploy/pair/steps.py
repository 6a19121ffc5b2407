"""Written arithmetic: a formula in reverse Polish order becomes the lines a pupil would write.

Knows how one addition, subtraction or multiplication is spelt out column by column, with carries
and borrows, and how a *slip* (one wrong mark, carried on faithfully) looks. Must not know about
prompts, stories, tokenizers or torch: the bench imports it at run time.

The format is made for tiny models: every line needs digits that stand at a few fixed places, and
every fact is one of a few hundred. Only the opening and closing words of a step are free; they are
drawn at random, so that two models may differ in words without differing in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

Formula = tuple[int | str, ...]

PLACES = ("ones", "tens", "hundreds", "thousands")
OPENERS = ("First", "Start")
SEQUELS = ("Then", "Next", "Now")
CLOSERS = ("gives", "makes")
ANSWER_MARK = "Answer: "


class UnwritableError(Exception):
    """The formula leaves the numbers that these steps can write (a negative or too long result)."""


def value_of(formula: Formula) -> int:
    """The exact result, by plain evaluation: the yardstick of everything written."""
    apply: dict[str, Callable[[int, int], int]] = {
        "+": lambda left, right: left + right,
        "-": lambda left, right: left - right,
        "*": lambda left, right: left * right,
    }
    stack: list[int] = []
    for item in formula:
        if isinstance(item, int):
            stack.append(item)
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(apply[item](left, right))
    (result,) = stack
    return result


def _digits(number: int, width: int) -> list[int]:
    """Ones first."""
    if number < 0 or number >= 10**width:
        raise UnwritableError
    return [number // 10**place % 10 for place in range(width)]


def _number(digits: Sequence[int]) -> int:
    return sum(digit * 10**place for place, digit in enumerate(digits))


@dataclass(slots=True)
class Pen:
    """Writes the lines of one solution; makes one slip when `slip` names the mark to spoil."""

    words: Random
    slip: int | None = None
    lines: list[str] = field(default_factory=list[str])
    marks: int = 0
    slipped_line: int | None = None

    def solve(self, formula: Formula) -> int:
        """Write every step of the formula and the marked answer; give the answer back."""
        stack: list[int] = []
        for item in formula:
            if isinstance(item, int):
                stack.append(item)
                continue
            right, left = stack.pop(), stack.pop()
            stack.append(self._step(item, left, right))
        (result,) = stack
        self.lines.append(f"{ANSWER_MARK}{result}")
        return result

    def _mark(self, true: int, wrong: Sequence[int]) -> int:
        """`true`, or, when this is the mark to spoil, one of the wrong ones."""
        self.marks += 1
        if self.slip is None or self.marks - 1 != self.slip:
            return true
        self.slipped_line = len(self.lines)
        choices = [value for value in wrong if value >= 0 and value != true]
        if not choices:
            raise UnwritableError
        return self.words.choice(choices)

    def _step(self, sign: str, left: int, right: int) -> int:
        match sign:
            case "+":
                return self._write("add", f"{left}+{right}", lambda: self._add(left, right))
            case "-":
                return self._write("subtract", f"{left}-{right}", lambda: self._less(left, right))
            case "*" if right < 10:
                return self._write("multiply", f"{left}*{right}", lambda: self._times(left, right))
            case "*":
                return self._long_times(left, right)
            case _:
                raise ValueError(f"no such operation: {sign}")

    def _write(self, verb: str, what: str, columns: Callable[[], int]) -> int:
        opener = self.words.choice(SEQUELS if self.lines else OPENERS)
        self.lines.append(f"{opener} {verb} {what}:")
        result = columns()
        result = self._mark(result, (result + 10, result - 10, result + 1, result + 100))
        self.lines.append(f"{self.words.choice(CLOSERS)} {result}")
        return result

    def _add(self, left: int, right: int) -> int:
        width = len(str(max(left, right)))
        if width > len(PLACES):
            raise UnwritableError
        carry, written = 0, list[int]()
        for place, (a, b) in enumerate(
            zip(_digits(left, width), _digits(right, width), strict=True)
        ):
            total = self._mark(a + b + carry, (a + b + carry + 1, a + b + carry - 1))
            brought = f"+{carry}" if place else ""
            carry = self._mark(total // 10, (1 - total // 10,))
            self.lines.append(f"{PLACES[place]} {a}+{b}{brought}={total} carry {carry}")
            written.append(total % 10)
        return _number([*written, carry])

    def _less(self, left: int, right: int) -> int:
        width = len(str(left))
        if right > left or width > len(PLACES):
            raise UnwritableError
        borrow, written = 0, list[int]()
        for place, (a, b) in enumerate(
            zip(_digits(left, width), _digits(right, width), strict=True)
        ):
            top = a + 10 if a < b + borrow else a
            rest = self._mark(top - b - borrow, ((top - b - borrow + 1) % 10, abs(a - b)))
            taken = f"-{borrow}" if place else ""
            borrow = self._mark(top // 10, (1 - top // 10,))
            self.lines.append(f"{PLACES[place]} {top}-{b}{taken}={rest} borrow {borrow}")
            written.append(rest % 10)
        return _number(written)

    def _times(self, left: int, digit: int) -> int:
        width = len(str(left))
        if width > len(PLACES):
            raise UnwritableError
        carry, written = 0, list[int]()
        for place, a in enumerate(_digits(left, width)):
            product = self._mark(a * digit, (a * digit + digit, a * digit + 1, a * digit - 1))
            if place:
                total = self._mark(product + carry, (product, product + carry + 1))
                body = f"{a}*{digit}+{carry}={product}+{carry}={total}"
            else:
                total = product
                body = f"{a}*{digit}={product}"
            carry = self._mark(total // 10, (total // 10 + 1, total // 10 - 1))
            self.lines.append(f"{PLACES[place]} {body} carry {carry}")
            written.append(total % 10)
        return _number([*written, carry])

    def _long_times(self, left: int, right: int) -> int:
        """Two-digit multiplier: the round part at once, the ones in columns, then their sum."""
        tens, ones = right - right % 10, right % 10
        if tens != 10 or ones < 2:
            raise UnwritableError
        part = self._step("*", left, ones)
        self.lines.append(f"{left}*{tens}={left * tens}")
        return self._step("+", left * tens, part)


@dataclass(frozen=True, slots=True)
class Slipped:
    """A wrong solution and the number of the line in which its one slip stands."""

    text: str
    line: int


def write(formula: Formula, words: Random) -> str:
    """The correct solution."""
    pen = Pen(words)
    pen.solve(formula)
    return "\n".join(pen.lines)


def write_with_slip(formula: Formula, words: Random) -> Slipped | None:
    """A solution with one slip that changes the answer; None when the drawn slip does not."""
    trial = Pen(Random(0))
    truth = trial.solve(formula)
    pen = Pen(words, slip=words.randrange(trial.marks))
    try:
        result = pen.solve(formula)
    except UnwritableError:
        return None
    if result == truth or pen.slipped_line is None:
        return None
    return Slipped("\n".join(pen.lines), pen.slipped_line)
