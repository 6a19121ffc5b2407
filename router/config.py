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
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapSerializer

from router.decode import ConfigError, Decoded, Form, Problem, decode
from router.explain import Complaint, explain
from router.hosts import Gigabytes, HostConfig, HostName, Sleeping, check_memory
from router.references import STRICT, Reference, Table, build_policy, check_name, check_references
from router.steps import Policy, Surface

__all__ = [
    "Config", "ConfigError", "Document", "Form", "ModelConfig", "Problem", "Table", "Written",
    "load_file", "parse",
]  # fmt: skip

# --------------------------------------------------------------------------------- kinds of values

_PART = r"[A-Za-z0-9][A-Za-z0-9._:@+-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})*")
LONGEST_NAME = 128
"""Characters; names are label values of metrics and part of every log line."""


def _name(value: str) -> str:
    if len(value) <= LONGEST_NAME and _NAME.fullmatch(value):
        return value
    raise ValueError(
        f"a name has at most {LONGEST_NAME} letters, digits and ._:@+- "
        "(with / between parts), and begins with a letter or a digit"
    )


def _backend(value: str) -> str:
    """`value` as scheme, host, port and path; a closing slash or `/v1` is not part of it."""
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("a backend's URL has no spaces, control or non-ASCII characters")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("this is not a URL; write http://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a backend is an http:// or https:// URL with a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL holds no credentials; name their variable in api_key_env")
    if "?" in value or "#" in value:
        raise ValueError("a backend's URL has no query and no fragment")
    port = None if port == {"http": 80, "https": 443}[parts.scheme] else port
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}"


def _distinct(value: tuple[str, ...]) -> tuple[str, ...]:
    if len({urlsplit(url).netloc for url in value}) < len(value):
        raise ValueError("two backends of one model have the same host and port, which name them")
    return value


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, Field(min_length=1)]
BackendUrl = Annotated[str, AfterValidator(_backend)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""The name of an environment variable, never its value."""
Port = Annotated[int, Field(ge=0, le=65535)]
"""0 lets the system choose a free one."""
Seconds = Annotated[float, Field(gt=0, le=86_400)]
"""At most a day: a longer wait is a slip of the keyboard."""
Megabytes = Annotated[float, Field(gt=0, le=4096)]
"""Of 2**20 bytes; at most 4 GiB, since it is held in memory."""
Amount = Annotated[float, Field(ge=0)]
FROZEN = (
    AfterValidator(MappingProxyType),
    WrapSerializer(lambda value, inner: inner(dict(value))),  # pydantic cannot write the proxy
)
"""Makes a mapping read-only, and writable to JSON all the same."""


class Section(BaseModel):
    """A part of the tree: frozen, strict, and closed to unknown settings."""

    model_config = ConfigDict(**STRICT, use_attribute_docstrings=True)


# ------------------------------------------------------------------------------------ the sections


class ListenConfig(Section):
    """Where clients connect."""

    host: Text = "127.0.0.1"
    """Address to listen on; `0.0.0.0` for every IPv4 interface."""
    port: Port = 8000
    """TCP port; 0 takes a free one and prints it."""


class AdminConfig(Section):
    """Where operators connect: a listener of its own."""

    host: Text = "127.0.0.1"
    """Address to listen on; without a token it is the loopback interface, whatever stands here."""
    port: Port = 8001
    """TCP port; 0 takes a free one and prints it."""
    token_env: Variable | None = None
    """The environment variable that holds the bearer token."""


class KeysConfig(Section):
    """Who may call; without this section the gateway is open."""

    file: Text
    """The file of client keys, relative to the directory that Tandem is started in."""


class PriceConfig(Section):
    """USD per million tokens."""

    input: Amount = 0.0
    """USD per million tokens of the prompt."""
    output: Amount = 0.0
    """USD per million tokens of the answer."""


class ModelConfig(Section):
    """One model: a pool of backends that all serve the same weights."""

    backends: Annotated[
        tuple[BackendUrl, ...], Field(min_length=1, max_length=256), AfterValidator(_distinct)
    ]
    """URLs of the servers; a closing `/v1` or slash is accepted and removed. At most 256."""
    served_as: Text | None = None
    """What the backends call the model; by default what it is called here."""
    params_b: Annotated[float, Field(gt=0)] = 1.0
    """Active parameters, in billions."""
    context: Annotated[int, Field(gt=0)] | None = None
    """Longest prompt and answer together, in tokens; by default what the backends report."""
    price: PriceConfig = PriceConfig()
    """What its tokens cost; 0 by default."""
    api_key_env: Variable | None = None
    """The environment variable whose value is sent to the backends as a bearer token."""
    surfaces: tuple[Surface, ...] | None = None
    """APIs that the backends serve; by default what probing finds."""
    memory_gb: Gigabytes | None = None
    """Memory that each of its servers takes while awake, in GiB; counts on hosts with a budget."""
    sleep: Sleeping = None
    """Lets its servers sleep while others need their memory: `true`, or the settings below."""


class LimitsConfig(Section):
    """How long things may take, and how large they may be."""

    deadline: Seconds = 600.0
    """Longest life of one request, all attempts together."""
    connect: Seconds = 3.0
    """Longest wait for a connection to a backend."""
    first_token: Seconds = 120.0
    """Longest silence of a backend before the first byte of its answer."""
    idle: Seconds = 60.0
    """Longest silence of a backend in the middle of an answer."""
    keepalive: Seconds = 15.0
    """Silence on a stream after which the client is sent an SSE comment."""
    body_mb: Megabytes = 20.0
    """Largest request body, in MiB."""
    answer_mb: Megabytes = 64.0
    """Largest answer of a backend that is not streamed, in MiB."""
    hold_mb: Megabytes = 8.0
    """Most of a streamed draft that is held back before it must be sent or dropped, in MiB."""
    event_kb: Annotated[float, Field(gt=0, le=65_536)] = 1024.0
    """Largest single event of a backend's stream, in KiB."""
    retry_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Retries that are allowed, as a share of the requests of the last 10 seconds."""
    retry_floor: Annotated[int, Field(ge=0, le=100_000)] = 10
    """Retries that are always allowed in 10 seconds, however few requests there are."""


class HealthConfig(Section):
    """How backends are asked whether they are well."""

    every: Seconds = 5.0
    """Seconds between two checks of a backend."""
    timeout: Seconds = 2.0
    """Longest wait for the answer to a check."""
    silences: Annotated[int, Field(ge=1, le=100)] = 3
    """Checks in a row without an answer in time that mean unwell; a busy server may miss one."""
    path: Annotated[str, Field(pattern=r"^/[!-~]*$")] = "/health"
    """What is asked for; any 2xx means well."""


class BreakerConfig(Section):
    """When a backend that fails is left alone."""

    failures: Annotated[int, Field(ge=1, le=1000)] = 5
    """Failures in a row that open the breaker."""
    wait: Seconds = 2.0
    """First pause before the backend is tried again; it doubles with each failed try."""
    longest: Seconds = 60.0
    """Longest pause."""


class LogConfig(Section):
    """One JSON line per request; without this section there is no log."""

    file: Text
    """A path, relative to the directory that Tandem is started in, or `-` for standard output."""


class DecisionsConfig(Section):
    """A log to learn from, prompts included; without this section nothing of the kind is kept."""

    file: Text
    """A path, relative to the directory that Tandem is started in; one that nobody else reads."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The part of the requests that is logged, drawn request by request."""
    prompts: bool = True
    """Whether a line holds the request's body, without which no other policy can be scored."""


class Config(Section):
    """The whole document, as it was written: names are not resolved, policies are not built."""

    listen: ListenConfig = ListenConfig()
    admin: AdminConfig = AdminConfig()
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
    limits: LimitsConfig = LimitsConfig()
    health: HealthConfig = HealthConfig()
    breaker: BreakerConfig = BreakerConfig()
    log: LogConfig | None = None
    decisions: DecisionsConfig | None = None


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


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def _most_expensive(models: Mapping[str, ModelConfig]) -> str:
    return max(models, key=lambda name: (models[name].price.output, models[name].params_b))


def _in_order(decoded: Decoded, complaints: list[Complaint]) -> tuple[Problem, ...]:
    """All problems, in the order of the document where its lines are known."""
    located = [decoded.problem(path, reason) for path, reason in complaints]
    problems = [*decoded.problems, *located]
    return tuple(sorted(problems, key=lambda problem: (problem.line or 0, problem.path)))
