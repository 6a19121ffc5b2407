"""The configuration: one strict, frozen tree, read completely or not at all.

`parse` takes a document's text and gives a `Document`: every setting typed and in its range, every
policy built, every name resolved. If anything is wrong it raises one `ConfigError` that lists all
of it, each with the path of the setting and its line. Apart from artifacts that policies load,
nothing outside the text is looked at (no environment, no network), so that checking a file gives
the same verdict anywhere; `router.runtime` checks what the machine must provide.

The rule: no setting holds a secret. The document can be shown to anyone who may see the fleet;
keys and tokens are named by the environment variable or the file that holds them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from router.decode import ConfigError, Decoded, Form, Problem, decode
from router.explain import Complaint, explain
from router.hosts import HostConfig, HostName, check_memory
from router.references import Reference, Table, build_policy, check_name, check_references
from router.sections import (
    AdminConfig,
    BreakerConfig,
    CorporaConfig,
    DecisionsConfig,
    DrainConfig,
    HealthConfig,
    KeysConfig,
    LimitsConfig,
    ListenConfig,
    LogConfig,
    ModelConfig,
    RequestsConfig,
    SecretsConfig,
    StoreConfig,
    TracingConfig,
)
from router.steps import Policy
from router.values import FROZEN, Name, Section

__all__ = [
    "Config", "ConfigError", "Document", "Form", "Problem", "Table", "Written", "load_file",
    "parse",
]  # fmt: skip


class Config(Section):
    """The whole document, as it was written: names are not resolved, policies are not built."""

    listen: ListenConfig = ListenConfig()
    admin: AdminConfig = AdminConfig()
    secrets: SecretsConfig = SecretsConfig()
    keys: KeysConfig | None = None
    models: Annotated[Mapping[Name, ModelConfig], Field(min_length=1), *FROZEN]
    """Pools by the name that clients use."""
    hosts: Annotated[Mapping[HostName, HostConfig], *FROZEN] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    """Memory of hosts whose servers sleep in turns, by the host as it stands in their URLs."""
    policies: Annotated[Mapping[Name, Any], *FROZEN] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    """Policies by the name that clients use; `use` says which kind, the rest are its settings."""
    default: str | None = None
    """The policy or model that serves requests that name none of them."""
    baseline: str | None = None
    """The model that savings are counted against; by default the most expensive one."""
    shadow: str | None = None
    """The policy or model whose decisions are compared with those that serve; it serves nobody."""
    requests: RequestsConfig = RequestsConfig()
    limits: LimitsConfig = LimitsConfig()
    health: HealthConfig = HealthConfig()
    breaker: BreakerConfig = BreakerConfig()
    log: LogConfig | None = None
    tracing: TracingConfig | None = None
    decisions: DecisionsConfig | None = None
    corpora: CorporaConfig = CorporaConfig()
    store: StoreConfig | None = None
    drain: DrainConfig = DrainConfig()


# ------------------------------------------------------------------------------------ the document


@dataclass(frozen=True, slots=True)
class Written:
    """A document as it was written: `tree` is its plain content, `text` comments and all."""

    tree: Mapping[str, Any]
    text: str
    form: Form
    source: str

    @property
    def etag(self) -> str:
        """A hash of what the document says, order included; comments and notation do not count."""
        canonical = json.dumps(self.tree, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def yaml(self) -> str:
        """The document in YAML: with its comments, if it was written so."""
        if self.form is Form.YAML:
            return self.text
        return yaml.safe_dump(self.tree, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration that was read and checked completely.

    `default` and `baseline` are resolved. `policies` and `kinds` hold the configured policies by
    name, without the models, which are targets too.
    """

    config: Config
    policies: Mapping[str, Policy]
    kinds: Mapping[str, str]
    default: str
    baseline: str
    written: Written


def load_file(path: str | FilePath, table: Table) -> Document:
    """Read and check the YAML (or `.json`) file at `path`; raises `ConfigError`."""
    form = Form.JSON if str(path).endswith(".json") else Form.YAML
    try:
        text = FilePath(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(str(path), (Problem("", error.strerror or str(error)),)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), (Problem("", f"not UTF-8: {error.reason}"),)) from error
    return parse(text, table, str(path), form)


def parse(
    text: str, table: Table, source: str = "gateway.yaml", form: Form = Form.YAML
) -> Document:
    """Read and check a document completely; raises `ConfigError` with everything that is wrong.

    `table` holds the kinds of policies there are. `source` is only how messages call the document.
    """
    decoded = decode(text, form, source)
    tree = decoded.tree
    complaints: list[Complaint] = []
    config: Config | None = None
    try:
        config = Config.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        complaints += explain(error, tree, Config)
    if config is not None:
        complaints += check_memory(config.models, config.hosts)
        complaints += _check_keys(config)
    policies = _build_policies(tree, table, complaints)
    complaints += _check_names(tree, policies)
    problems = _in_order(decoded, complaints)
    if config is None or problems:
        raise ConfigError(source, problems)
    return Document(
        config=config,
        policies=MappingProxyType(policies),
        kinds=MappingProxyType({name: config.policies[name]["use"] for name in policies}),
        default=config.default or next(iter(config.policies or config.models)),
        baseline=config.baseline or _most_expensive(config.models),
        written=Written(tree, text, form, source),
    )


def _build_policies(
    tree: Mapping[str, Any], table: Table, complaints: list[Complaint]
) -> dict[str, Policy]:
    policies: dict[str, Policy] = {}
    for name, block in _mapping(tree, "policies").items():
        policy, found = build_policy(block, table)
        complaints += [(("policies", name, *path), reason) for path, reason in found]
        if policy is not None:
            policies[name] = policy
    return policies


def _check_names(tree: Mapping[str, Any], built: Mapping[str, Policy]) -> Iterator[Complaint]:
    """Complain about every name that is doubtful; silent as long as there are no models."""
    models, policies = _mapping(tree, "models"), _mapping(tree, "policies")
    if not models:
        return
    for name in policies.keys() & models.keys():
        yield ("policies", name), "a model has this name too; a client could not tell them apart"
    distinct = {name: policy for name, policy in built.items() if name not in models}
    for path, reason in check_references(distinct, models, policies):
        yield ("policies", *path), reason
    for setting, model_only in (("default", False), ("baseline", True), ("shadow", False)):
        if isinstance(named := tree.get(setting), str):
            yield from check_name(Reference((setting,), named, model_only), models, policies)
    if tree.get("default") is None and len(policies or models) != 1:
        yield ("default",), f"there are several; say which one: {', '.join(policies or models)}"


OWN = "this secret is the gateway's own: it is not for backends"


def _check_keys(config: Config) -> Iterator[Complaint]:
    """Complain where a token of an operator, or the store's password, would go to backends."""
    tokens = config.admin.tokens
    variables = {config.admin.token_env, *(token.token_env for token in tokens)}
    files = {token.token_file for token in tokens}
    if config.store:
        variables.add(config.store.password_env)
        files.add(config.store.password_file)
    variables, files = variables - {None}, files - {None}
    for name, model in config.models.items():
        if model.api_key_env in variables:
            yield ("models", name, "api_key_env"), OWN
        if model.api_key_file in files:
            yield ("models", name, "api_key_file"), OWN


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def _most_expensive(models: Mapping[str, ModelConfig]) -> str:
    return max(models, key=lambda name: (models[name].charge.output, models[name].params_b))


def _in_order(decoded: Decoded, complaints: list[Complaint]) -> tuple[Problem, ...]:
    """All problems, in the order of the document where its lines are known."""
    located = [decoded.problem(path, reason) for path, reason in complaints]
    problems = [*decoded.problems, *located]
    return tuple(sorted(problems, key=lambda problem: (problem.line or 0, problem.path)))
