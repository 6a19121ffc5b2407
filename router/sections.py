"""The sections of the configuration: every setting, typed.

Each section is frozen, strict and closed to unknown settings; the docstring of a setting is its
documentation. Only what can be seen in a value alone is checked here: `router.config` puts the
sections into one document and checks what must be true between them.

The rule: no setting holds a secret. Keys and tokens are named by the environment variable or the
file that holds them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from router.fleet import Price
from router.hosts import Gigabytes, Sleeping
from router.idealised import Idealised
from router.steps import Surface
from router.values import (
    Amount,
    BackendUrl,
    Megabytes,
    Name,
    Port,
    Seconds,
    SecretFile,
    Section,
    StoreUrl,
    Text,
    Variable,
    distinct,
)

Reserved: TypeAlias = Literal[
    "kv_transfer_params", "ec_transfer_params", "kv_cache_report_mode", "prompt_embeds",
    "image_embeds", "audio_embeds", "video_embeds", "priority",
]  # fmt: skip
"""Fields of bodies that are between the gateway and its backends."""
MediaHost = Annotated[str, Field(pattern=r"^(\*|[a-z0-9.-]+|\[[0-9a-f:.]+\])$")]


OPERATOR = "operator"
"""Who sends the token of `admin.token_env`."""


class ListenConfig(Section):
    """Where clients connect."""

    host: Text = "127.0.0.1"
    """Address to listen on; `0.0.0.0` for every IPv4 interface."""
    port: Port = 8000
    """TCP port; 0 takes a free one and prints it."""


class Role(StrEnum):
    """What somebody may do on the admin listener."""

    VIEWER = "viewer"
    """See everything, and check documents."""
    OPERATOR = "operator"
    """Change things, too."""


class TokenConfig(Section):
    """Somebody who may use the admin listener, and where the token is that tells so."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    """Who this is: what the audit log calls whoever sends the token."""
    role: Role
    """`viewer` sees everything and checks documents; `operator` changes things, too."""
    token_env: Variable | None = None
    """The environment variable that holds the bearer token."""
    token_file: SecretFile | None = None
    """The file below `secrets.folder` that holds the bearer token, in place of a variable."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.token_env is None) == (self.token_file is None):
            raise ValueError("say where the token is: either token_env or token_file")
        return self


class AdminConfig(Section):
    """Where operators connect: a listener of its own."""

    host: Text = "127.0.0.1"
    """Address to listen on; without a token it is the loopback interface, whatever stands here."""
    port: Port = 8001
    """TCP port; 0 takes a free one and prints it."""
    token_env: Variable | None = None
    """The environment variable that holds the bearer token of the one called `operator`."""
    tokens: Annotated[tuple[TokenConfig, ...], Field(max_length=256)] = ()
    """Others who may use it, each with a name, a role and a token of their own. At most 256."""
    audit: Text | None = None
    """The file that every change is written down in; relative to where Tandem is started."""

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        names = [OPERATOR] if self.token_env else []
        names += [token.name for token in self.tokens]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f'tokens: two are called "{twice[0]}"')
        return self


class SecretsConfig(Section):
    """Where files of secrets lie."""

    folder: Text = "secrets"
    """The only folder that secrets are read from; relative to where Tandem is started."""


class KeysConfig(Section):
    """Who may call; without this section the gateway is open."""

    file: Text
    """The file of client keys, relative to the directory that Tandem is started in."""
    isolate: bool = True
    """Whether backends keep the prefix caches of keys apart (`cache_salt`)."""


class PriceConfig(Section):
    """What tokens and calls cost."""

    input: Amount = 0.0
    """USD per million tokens of the prompt."""
    output: Amount = 0.0
    """USD per million tokens of the answer."""
    call: Amount = 0.0
    """USD per call to a backend, however long."""


class IdealisedConfig(Section):
    """Seconds that a call takes on the model's own hardware, served alone; `tandem bench backend`
    measures them.
    """

    call: Amount = 0.0
    """Seconds of every call, however short."""
    prefill: Amount = 0.0
    """Seconds per token of the prompt."""
    decode: Amount = 0.0
    """Seconds per token of the answer."""
    context: Amount = 0.0
    """Seconds more per token of the answer for each token that stands before it."""

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        if not (self.call or self.prefill or self.decode or self.context):
            raise ValueError("a call takes some time: give call, prefill, decode or context")
        return self


class QueueConfig(Section):
    """How many answers a model's servers write at once, and who may wait for that."""

    in_flight: Annotated[int, Field(ge=1, le=1_000_000)]
    """Most answers that each of its servers writes at once: vLLM's `--max-num-seqs`, as a rule."""
    waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    """Most requests of each priority that wait for a place; further ones are refused."""
    longest: Seconds = 10.0
    """Longest wait for a place; whoever would wait longer is refused at once."""
    floor: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the places that come free that those in line get who would not be first."""


class ModelConfig(Section):
    """One model: a pool of backends that all serve the same weights."""

    backends: Annotated[
        tuple[BackendUrl, ...], Field(min_length=1, max_length=256), AfterValidator(distinct)
    ]
    """URLs of the servers; a closing `/v1` or slash is accepted and removed. At most 256."""
    served_as: Text | None = None
    """What the backends call the model; by default what it is called here."""
    params_b: Annotated[float, Field(gt=0)] = 1.0
    """Active parameters, in billions."""
    context: Annotated[int, Field(gt=0)] | None = None
    """Longest prompt and answer together, in tokens; by default what the backends report."""
    price: PriceConfig = PriceConfig()
    """What its tokens cost; by default what its idealised runtime says, or 0."""
    idealised: IdealisedConfig | None = None
    """How long it takes alone; without it, no idealised figures are known of it."""
    accelerators: Annotated[int, Field(ge=1, le=65_536)] = 1
    """How many accelerators one of its servers takes, where it was measured."""
    usd_per_hour: Amount | None = None
    """USD per hour of one accelerator; the price of idealised seconds."""
    api_key_env: Variable | None = None
    """The environment variable whose value is sent to the backends as a bearer token."""
    api_key_file: SecretFile | None = None
    """The file below `secrets.folder` that holds that token, in place of a variable."""
    surfaces: tuple[Surface, ...] | None = None
    """APIs that the backends serve; by default what probing finds."""
    memory_gb: Gigabytes | None = None
    """Memory that each of its servers takes while awake, in GiB; counts on hosts with a budget."""
    sleep: Sleeping = None
    """Lets its servers sleep while others need their memory: `true`, or the settings below."""
    queue: QueueConfig | None = None
    """Limits how much its servers do at once; without it, whatever comes is sent on at once."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("api_key_file: the key is in one place; api_key_env names another")
        return self

    @model_validator(mode="after")
    def _hours_of_what(self) -> Self:
        for name in ("accelerators", "usd_per_hour"):
            if self.idealised is None and name in self.model_fields_set:
                raise ValueError(f"{name}: counts idealised seconds; give `idealised`, too")
        return self

    @property
    def alone(self) -> Idealised | None:
        """How long it takes alone, if that was said."""
        if (said := self.idealised) is None:
            return None
        return Idealised(
            said.call,
            said.prefill,
            said.decode,
            said.context,
            self.accelerators,
            self.usd_per_hour,
        )

    @property
    def charge(self) -> Price:
        """What its calls cost: its price, or without one what its idealised runtime comes to."""
        alone = None if "price" in self.model_fields_set else self.alone
        derived = alone.price if alone else None
        return derived or Price(self.price.input, self.price.output, self.price.call)


class RequestsConfig(Section):
    """What clients may put into a body that is refused otherwise."""

    allow: tuple[Reserved, ...] = ()
    """Reserved fields that clients may set all the same."""
    media_hosts: tuple[MediaHost, ...] = ()
    """Hosts that backends may fetch images, audio, video and files from; `*` for any."""


class LimitsConfig(Section):
    """How long things may take, and how large they may be."""

    deadline: Seconds = 600.0
    """Longest life of one request, all attempts together."""
    connect: Seconds = 3.0
    """Longest wait for a connection to a backend."""
    first_token: Seconds = 120.0
    """Longest silence of a backend before the first byte of its answer."""
    idle: Seconds = 60.0
    """Longest wait for the next event in the middle of an answer."""
    keepalive: Seconds = 15.0
    """Silence on a stream after which the client is sent an SSE comment."""
    client: Seconds = 60.0
    """Longest wait for a client: until its request has arrived, and until it reads on."""
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


class TracingConfig(Section):
    """Traces and metrics by OpenTelemetry; without this section there are none. Where they go is
    said by the `OTEL_...` environment variables.
    """

    trust_clients: bool = False
    """Whether a request becomes part of its client's trace; otherwise it only links to that."""


class DecisionsConfig(Section):
    """A log to learn from, prompts included; without this section nothing of the kind is kept."""

    file: Text
    """A path, relative to the directory that Tandem is started in; one that nobody else reads."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The part of the requests that is logged, drawn request by request."""
    prompts: bool = True
    """Whether a line holds the request's body, without which no other policy can be scored."""


class StoreConfig(Section):
    """What several processes share; without this section it is kept for one machine, and only as
    long as `tandem serve` runs, but for what keys have spent.
    """

    file: Text | None = None
    """A SQLite file, relative to the directory that Tandem is started in: for one machine."""
    url: StoreUrl | None = None
    """A Redis or Valkey server, `redis://HOST:PORT/NUMBER` or `rediss://` for TLS: for many."""
    username: Text | None = None
    """Its user, where it has several."""
    password_env: Variable | None = None
    """The environment variable that holds its password."""
    password_file: SecretFile | None = None
    """The file that holds it, below `secrets.folder`."""
    name: Name = "tandem"
    """Gateways of one name act as one; another name keeps others on the same server apart."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.url is None):
            raise ValueError("say either `file` or `url`")
        if self.file and (self.username or self.password_env or self.password_file):
            raise ValueError("a file has no user and no password")
        if self.password_env and self.password_file:
            raise ValueError("say either `password_env` or `password_file`")
        return self


class DrainConfig(Section):
    """How a process ends after SIGTERM."""

    announce: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Seconds after the signal during which `/readyz` is red and all is still answered."""
    finish: Seconds = 30.0
    """Longest time after that for answers under way; then they are broken off."""


class CorporaConfig(Section):
    """Documents that are kept with the gateway, for policies that answer from them."""

    folder: Text = "corpora"
    """Where corpora are kept, relative to the directory that Tandem is started in."""
    import_from: Text | None = None
    """A folder below which the admin API may read files on this machine; without it, none."""
    limit_mb: Megabytes = 32.0
    """Most text of one corpus, and the largest upload, in MiB."""
