"""Golden documents: what is read from each, or everything that is refused about it.

A file in `tests/configs/accepted` or `refused` is a document, a line of dashes, and what must come
out. To add a case, write the document and the dashes, and paste what the failing test prints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

import policies
from router.config import Config, ConfigError, Document, Form, load_file, parse
from router.decode import decode
from router.explain import plain
from router.references import references
from router.revisions import FIXED
from tests.tiny_policies import TABLE

CONFIGS = Path(__file__).parents[1] / "configs"
DASHES = "----------\n"


def cases(folder: str) -> list[Path]:
    found = sorted((CONFIGS / folder).glob("*.golden"))
    assert found, "no golden documents"
    return found


def name(path: Path) -> str:
    return path.stem


def show(document: Document) -> str:
    """What was read, without what has its default value."""
    read = document.config.model_dump_json(exclude_defaults=True)
    policies = [f"{name} = {policy!r}" for name, policy in document.policies.items()]
    resolved = f"default = {document.default}\nbaseline = {document.baseline}\n"
    settings = yaml.safe_dump(json.loads(read), sort_keys=False, width=100)
    return resolved + "".join(f"{line}\n" for line in policies) + settings


@pytest.mark.parametrize("path", cases("accepted"), ids=name)
def test_accepted(path: Path) -> None:
    text, _, expected = path.read_text().partition(DASHES)
    assert show(parse(text, TABLE)) == expected


@pytest.mark.parametrize("path", cases("refused"), ids=name)
def test_refused(path: Path) -> None:
    text, _, expected = path.read_text().partition(DASHES)
    with pytest.raises(ConfigError) as refused:
        parse(text, TABLE)
    assert "".join(f"{problem}\n" for problem in refused.value.problems) == expected
    assert "hunter2" not in str(refused.value), "a refused value may be a secret"


@pytest.mark.parametrize("path", cases("accepted"), ids=name)
def test_json_says_the_same_as_yaml(path: Path) -> None:
    written = parse(path.read_text().partition(DASHES)[0], TABLE)
    again = parse(json.dumps(written.written.tree), TABLE, form=Form.JSON)
    assert show(again) == show(written)
    assert again.written.etag == written.written.etag
    assert show(parse(again.written.yaml, TABLE)) == show(written)


NOTATION = {
    "alias",
    "broken_yaml",
    "duplicate_keys",
    "empty",
    "key_that_is_no_word",
    "not_a_mapping",
    "tab",
    "tag",
    "two_documents",
}
"""Cases that only YAML can get wrong."""


@pytest.mark.parametrize(
    "path", [path for path in cases("refused") if path.stem not in NOTATION], ids=name
)
def test_json_is_refused_for_the_same_reasons(path: Path) -> None:
    text = path.read_text().partition(DASHES)[0]
    with pytest.raises(ConfigError) as of_yaml:
        parse(text, TABLE)
    tree = decode(text, Form.YAML, path.name).tree
    with pytest.raises(ConfigError) as of_json:
        parse(json.dumps(tree), TABLE, form=Form.JSON)
    of_both = [
        sorted((problem.path, problem.reason) for problem in error.value.problems)
        for error in (of_yaml, of_json)
    ]
    assert of_both[0] == of_both[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"models": {}, "models": {}}', "the key 'models' is written twice"),
        ('{"models": NaN}', "NaN is not a JSON number"),
        ('{"models": {}', "not valid JSON: Expecting ',' delimiter, column 14"),
        ("[" * 100_000, "nested too deeply"),
        ('["models"]', "a configuration is a mapping"),
        ('{"models": {"a\\ud800": 1}}', "Invalid JSON"),
        ('{"models": ' + "9" * 5000 + "}", "cannot be read: Exceeds the limit"),
    ],
    ids=lambda value: value[:20],
)
def test_json_notation(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        parse(text, TABLE, form=Form.JSON)


def test_yaml_nested_without_end() -> None:
    with pytest.raises(ConfigError, match="nested deeper than 32 levels"):
        parse("[" * 100_000, TABLE)


@given(
    st.text(
        alphabet=st.sampled_from("models:{}[]&*!|>-?#'\"\\\n\t ,012.eno~\0\ud800é"), max_size=60
    )
)
def test_any_text_is_read_or_refused(text: str) -> None:
    for form in Form:
        with pytest.raises(ConfigError):
            parse(text, TABLE, form=form)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREES = st.recursive(
    PLAIN,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(["models", "policies", "a", "use", "targets", "backends", "price"]),
            inside,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {"models": TREES | st.just({"a": {"backends": ["http://127.0.0.1:1"]}})},
        optional={
            "policies": st.dictionaries(st.sampled_from(["a", "b"]), TREES),
            "default": TREES,
            "baseline": TREES,
            "listen": TREES,
        },
    )
)
def test_any_tree_is_read_or_refused(tree: dict[str, object]) -> None:
    text = json.dumps(tree)
    try:
        document = parse(text, TABLE, form=Form.JSON)
    except ConfigError:
        return
    assert document.default in {*document.config.models, *document.policies}


def test_a_very_long_chain_is_no_circle() -> None:
    count = 1200  # more than Python's frames
    start = {"policy-0": {"use": "direct", "model": "m"}}
    chain = {
        f"policy-{n}": {"use": "ladder", "targets": [f"policy-{n - 1}"]} for n in range(1, count)
    }
    tree = {"models": {"m": {"backends": ["http://h"]}}, "policies": start | chain, "default": "m"}
    assert parse(json.dumps(tree), TABLE, form=Form.JSON).default == "m"
    tree["policies"] = start | chain | {"policy-0": chain[f"policy-{count - 1}"]}
    with pytest.raises(ConfigError) as refused:
        parse(json.dumps(tree), TABLE, form=Form.JSON)
    (problem,) = refused.value.problems
    assert problem.path == "policies.policy-1.targets.0"
    assert "this leads in a circle: policy-0 -> " in problem.reason
    assert problem.reason.endswith("-> ... -> policy-0")


def test_files(tmp_path: Path) -> None:
    text = "models: {only: {backends: [http://127.0.0.1:8101]}}"
    (tmp_path / "gateway.yaml").write_text(text)
    (tmp_path / "gateway.json").write_text('{"models": {"only": {"backends": ["http://h"]}}}')
    (tmp_path / "latin1.yaml").write_bytes("# größe".encode("latin-1"))
    assert load_file(tmp_path / "gateway.yaml", TABLE).written.text == text
    assert load_file(tmp_path / "gateway.json", TABLE).default == "only"
    with pytest.raises(ConfigError, match=r"latin1.yaml was refused:\n  not UTF-8"):
        load_file(tmp_path / "latin1.yaml", TABLE)
    with pytest.raises(ConfigError, match=r"nothing.yaml was refused:\n  No such file"):
        load_file(tmp_path / "nothing.yaml", TABLE)


def test_etag_is_of_what_the_document_says() -> None:
    one = parse("models: {a: {backends: [http://h], params_b: 1}}  # a comment", TABLE)
    same = parse("models:\n  a:\n    backends: [http://h]\n    params_b: 1\n", TABLE)
    other = parse("models: {a: {backends: [http://h], params_b: 2}}", TABLE)
    assert one.written.etag == same.written.etag != other.written.etag
    assert re.fullmatch("[0-9a-f]{16}", one.written.etag)


def test_the_tree_is_frozen() -> None:
    read = parse("models: {a: {backends: [http://h]}}", TABLE).config
    with pytest.raises(ValidationError, match="frozen"):
        read.limits.deadline = 1.0
    with pytest.raises(TypeError):
        read.models["b"] = read.models["a"]  # type: ignore[index]


def test_references_are_found_wherever_they_stand() -> None:
    built = parse((CONFIGS / "accepted/everything.golden").read_text().partition(DASHES)[0], TABLE)
    found = {
        (".".join(map(str, ref.path)), ref.name, ref.model_only)
        for ref in references(built.policies["canary"])
    }
    assert found == {
        ("weights.auto", "auto", False),
        ("weights.small", "small", False),
        ("arms.0.target", "auto", False),
        ("judge", "small", True),
    }


# --------------------------------------------------------------------------- what ships with it

ROOT = Path(__file__).parents[2]


def rows(section: type[BaseModel], path: str = "") -> Iterator[str]:
    """The table rows that `docs/config.md` must have for the settings of `section`."""
    for name, field in section.model_fields.items():
        here = f"{path}{name}"
        inside = plain(field.annotation)
        if get_origin(inside) is Mapping:
            inside, below = get_args(inside)[1], f"{here}.NAME."
        elif get_origin(inside) is tuple:
            inside, below = get_args(inside)[0], f"{here}.N."
        else:
            below = f"{here}."
        if isinstance(inside, type) and issubclass(inside, BaseModel):
            yield from rows(inside, below)
        else:
            yield f"| `{here}` | {default_of(field)} | {field.description} |"


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None or value == {} else f"`{json.dumps(value)}`".replace(".0`", "`")


def test_every_setting_is_documented_as_it_is() -> None:
    documented = (ROOT / "docs/config.md").read_text().splitlines()
    table = [
        line
        for line in documented
        if re.match(r"\| `[a-z_A-Z.]+` \| (required|none|`.*`) \|", line)
    ]
    assert table == list(rows(Config)), "paste:\n" + "\n".join(rows(Config))


def test_what_is_fixed_is_documented() -> None:
    said = (ROOT / "docs/config.md").read_text().partition("are set up once")[0]
    assert re.findall("`([^`]+)`", said.rpartition("\n- ")[2]) == list(FIXED)


LEARNED = "experts.yaml"
"""Names an artifact, which `tests/app/test_train_experts.py` makes first."""
EXAMPLES = sorted(path for path in (ROOT / "deploy/configs").glob("*.yaml") if path.name != LEARNED)


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_examples_are_accepted(path: Path) -> None:
    assert load_file(path, policies.TABLE).default


def test_the_example_in_the_docs_is_accepted() -> None:
    text = (ROOT / "docs/config.md").read_text()
    block = text.partition("```yaml\n")[2].partition("```")[0]
    assert parse(block, policies.TABLE).default == "auto"
