r"""Exact answers: where a text states one, and when two are the same."""

from __future__ import annotations

import pytest

from policies.training.outcomes.answers import same_formula, same_literal, stated


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"reasoning": "so", "answer": "42"}', "42"),
        ('```json\n{"reasoning": "a\nb", "answer": "42"}\n```\nDone.', "42"),
        ('{"answer": 42}', "42"),
        ('{"answer": [1, true, null]}', "[1, True, None]"),
        (r'{"reasoning": "\( x \)", "answer": "42"}', "42"),
        ('"answer": "1",\nno: "answer": "2"}', "2"),
        (r'"reasoning": "\(", "answer": "say \"hi\""}', 'say "hi"'),
        ('so **answer**: "4"\n}', "4"),
        ("answer: 12 apples\n", "12 apples"),
        (r"thus \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("The final answer is: $7$.", "$7$"),
        ("The answer is 7.", "7"),
        ("I do not know.", None),
        ("", None),
        ("{" * 10_000, None),
        (r"\boxed{7", None),
    ],
)
def test_where_a_result_is_stated(text: str, found: str | None) -> None:
    assert stated(text) == found


@pytest.mark.parametrize(
    ("one", "right"),
    [
        ("'a b'", "'a b'"),
        ('"a b"', "'a b'"),
        ("a b", "'a b'"),
        ("", "''"),
        ("[1,2]", "[1, 2]"),
        ("{'b': 1, 'a': 2}", "{'a': 2, 'b': 1}"),
        ("{2, 1}", "{1, 2}"),
        ("800", "'800'"),
        ("1.0", "1"),
        ("True", "True"),
        ("' x'", "' x'"),
    ],
)
def test_the_same_literal(one: str, right: str) -> None:
    assert same_literal(one, right)


@pytest.mark.parametrize(
    ("one", "right"),
    [
        ("True", "1"),
        ("1", "True"),
        ("(1, 2)", "[1, 2]"),
        ("'2'", "2"),
        ("a c", "'a b'"),
        ("[[[", "[]"),
        ("1 + 1", "2"),
        ("__import__('os')", "None"),
        ("(" * 5_000, "1"),
    ],
)
def test_another_literal(one: str, right: str) -> None:
    assert not same_literal(one, right)


@pytest.mark.parametrize(
    ("one", "right"),
    [
        ("-15", "-15"),
        ("\N{MINUS SIGN}15", "-15"),
        ("$-15$", "-15"),
        (r"\boxed{12}", "12"),
        ("1,200", "1200"),
        ("1{,}200", "1200"),
        ("12.0", "12"),
        ("12.", "12"),
        ("+12", "12"),
        (r"\frac{1}{2}", "1/2"),
        (r"\dfrac12", "0.5"),
        (r"-\frac{3}{4}", "-0.75"),
        (r"12\text{ cm}", "12"),
        ("12 apples", "12"),
        (r"90^\circ", "90"),
        (r"25\%", "25"),
        ("x = 5", "5"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        ("-221_{3}", "-221_3"),
        (r"\text{even}", "even"),
    ],
)
def test_the_same_formula(one: str, right: str) -> None:
    assert same_formula(one, right)


@pytest.mark.parametrize(
    ("one", "right"),
    [
        ("12", "21"),
        ("1/0", "0"),
        ("2,-1", "2"),
        ("", "0"),
        ("1,20", "120"),
        ("x", "y"),
        ("-5", "5"),
    ],
)
def test_another_formula(one: str, right: str) -> None:
    assert not same_formula(one, right)
