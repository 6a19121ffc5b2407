"""The file of keys: every mistake is refused with its place and reason, and shows no value."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from app.keyfile import KeyEntry, KeysError, load

CANARY = "tdm-canary-Zr8kQmW2vX"
DOCS = Path(__file__).parents[2] / "docs" / "keys.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_an_entry_survives_its_own_yaml(file: Path) -> None:
    made = KeyEntry(
        name="dave", sha256="0" * 64, models=frozenset({"auto"}), spend_usd=2.5, disabled=True
    )
    file.write_text("keys:\n" + made.yaml())
    assert load(file) == [made]


GOOD = "0" * 64


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("keys: [", "line 1 is not valid YAML"),
        ("", "the file: Input should be"),
        ("kees: []", "keys: Field required"),
        ("keys: [{name: a}]", "keys.0.sha256: Field required"),
        (f"keys: [{{name: a b, sha256: '{GOOD}'}}]", "keys.0.name: String should match"),
        ("keys: [{name: a, sha256: abc}]", "keys.0.sha256: String should match"),
        (f"keys: [{{name: a, sha256: '{GOOD}', rpm: 5}}]", "keys.0.rpm: Extra inputs"),
        (f"keys: [{{name: a, sha256: '{GOOD}', models: []}}]", "keys.0.models"),
        (
            f"keys: [{{name: a, sha256: '{GOOD}', requests_per_minute: '5'}}]",
            "keys.0.requests_per_minute: Input should be a valid integer",
        ),
        (f"keys: [{{name: a, sha256: '{GOOD}', spend_usd: .inf}}]", "keys.0.spend_usd"),
        (f"keys: [{{name: a, sha256: '{GOOD}', tokens_per_minute: 0}}]", "greater than 0"),
        (
            f"keys: [{{name: a, sha256: '{GOOD}'}}, {{name: a, sha256: '{'1' * 64}'}}]",
            "keys.0 and keys.1 have the same name",
        ),
        (
            f"keys: [{{name: a, sha256: '{'A' * 64}'}}, {{name: b, sha256: '{'a' * 64}'}}]",
            "keys.0 and keys.1 have the same digest",
        ),
        (f"keys: [{{name: tdm-oops, sha256: '{GOOD}'}}]", "must not begin like a key"),
    ],
)
def test_a_bad_file_is_refused_with_the_place_and_the_reason(
    file: Path, text: str, problem: str
) -> None:
    file.write_text(text)
    with pytest.raises(KeysError) as error:
        load(file)
    assert str(error.value).startswith(f"{file}: ")
    assert problem in str(error.value)


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(KeysError, match=r"keys\.yaml: cannot be read: No such file"):
        load(file)


def test_a_file_that_is_not_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00\xd8keys")
    with pytest.raises(KeysError, match="not valid YAML"):
        load(file)


def test_the_documented_file_is_a_good_one(file: Path) -> None:
    (example,) = [b for b in DOCS.read_text().split("```yaml\n")[1:] if b.startswith("keys:")]
    file.write_text(example.split("```")[0])
    settings = {field for made in load(file) for field in made.model_fields_set}
    assert settings == set(KeyEntry.model_fields)


@pytest.mark.parametrize(
    "text",
    [
        f"keys: [{{name: {CANARY}, sha256: '{GOOD}'}}]",
        f"keys: [{{name: a, sha256: {CANARY}}}]",
        f"keys: [{{name: a, sha256: '{GOOD}', {CANARY}: 1}}]",
        f"keys: [{{name: a, sha256: '{GOOD}', models: {CANARY}}}]",
        f"keys: *{CANARY}",
        f"keys:\n  - name: a\n sha256: {CANARY}",
        "keys:\n  - name: a\n sha256: canary-of-another-make",
        "keys: [{name: a, sha256: canary-of-another-make}]",
        f"keys: [{{name: a, sha256: '{GOOD}', requests_per_minute: {CANARY}}}]",
        CANARY,
    ],
)
def test_a_key_pasted_into_the_wrong_place_shows_in_no_error(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(KeysError) as error:
        load(file)
    assert "canary" not in "".join(traceback.format_exception(error.value))
    assert "canary" not in repr(error.value)
