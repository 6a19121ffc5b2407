"""`tandem bench backend`: what it asks of servers, what it refuses, and a run against the pair."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app import embedded
from app.bench.backend_fit import Fitted, Term, Timed
from app.bench.backend_measure import Found, Plan, Timing, measure
from app.bench.backend_report import Priced, as_json, as_text, block
from app.bench.backend_server import Server, opened
from app.bench.processes import BenchError
from app.cli import main
from policies import TABLE
from router.config import parse
from router.idealised import Idealised
from router.probe import Endpoint

URL = "http://server:1"
Json = dict[str, Any]


class Fake:
    """A server in this process: `served` by name, answers of the length that is asked for.

    It refuses what is in `unknown` (paths, and fields of bodies), and has `running` requests.
    """

    def __init__(self, *unknown: str, served: tuple[str, ...] = ("m",), running: int = 0) -> None:
        self.unknown = frozenset(unknown)
        self.served = served
        self.running = running
        self.bodies: list[Json] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """What it answers."""
        path = request.url.path
        if path in self.unknown:
            return httpx.Response(404, json={"error": {"message": f"no {path} here"}})
        match path:
            case "/v1/models":
                cards = [{"id": name, "max_model_len": 2048} for name in self.served]
                return httpx.Response(200, json={"data": cards})
            case "/metrics":
                page = "# TYPE vllm:num_requests_running gauge\n"
                page += f'vllm:num_requests_running{{model_name="m"}} {self.running}\n'
                return httpx.Response(200, text=page)
            case "/tokenize":
                return httpx.Response(200, json={"tokens": [7, 8, 9, 7]})
            case _:
                return self._answer(json.loads(request.content))

    def _answer(self, body: Json) -> httpx.Response:
        if refused := self.unknown & set(body):
            return httpx.Response(400, json={"error": {"message": f"{sorted(refused)}?"}})
        if self.unknown & {"ids"} and isinstance(body.get("prompt"), list):
            return httpx.Response(400, json={"error": {"message": "text only"}})
        self.bodies.append(body)
        prompt = body.get("prompt") or body["messages"][0]["content"].split()
        read = len(prompt.split() if isinstance(prompt, str) else prompt)
        usage = {"prompt_tokens": read, "completion_tokens": body["max_tokens"]}
        return httpx.Response(200, json={"choices": [{}], "usage": usage})


@contextlib.asynccontextmanager
async def asking(fake: Callable[[httpx.Request], httpx.Response]) -> AsyncIterator[Endpoint]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(fake)) as client:
        yield Endpoint(client, URL, {})


async def server(fake: Fake, model: str | None = None) -> Server:
    async with asking(fake) as endpoint:
        return await opened(endpoint, model, 0)


# ------------------------------------------------------------------------------- how it is asked


async def test_prompts_are_unique_token_ids_and_answers_have_their_length() -> None:
    fake = Fake()
    async with asking(fake) as endpoint:
        found = await opened(endpoint, None, 0)
        for _ in range(2):
            usage, seconds = await found.timed(40, 12)
            assert (usage.prompt, usage.completion) == (40, 12)
            assert seconds > 0
    one, other = fake.bodies[-2:]
    assert set(one["prompt"]) <= {7, 8, 9}
    assert one["prompt"] != other["prompt"]
    assert one["cache_salt"] != other["cache_salt"]
    assert (one["max_tokens"], one["min_tokens"], one["ignore_eos"]) == (12, 12, True)
    assert one["stream"] is False


@pytest.mark.parametrize(
    ("unknown", "path", "ids", "exact"),
    [
        ((), "/v1/completions", True, True),
        (("ignore_eos",), "/v1/completions", True, False),
        (("/tokenize",), "/v1/completions", False, True),
        (("ids", "cache_salt"), "/v1/completions", False, False),
        (("/v1/completions",), "/v1/chat/completions", False, True),
        (("/v1/completions", "/tokenize", "min_tokens"), "/v1/chat/completions", False, False),
    ],
    ids=["vllm", "no lengths", "no ids told", "no ids taken", "chats only", "bare"],
)
async def test_a_server_is_asked_in_the_best_way_that_it_takes(
    unknown: tuple[str, ...], path: str, ids: bool, exact: bool
) -> None:
    found = await server(Fake(*unknown))
    assert (found.path, bool(found.ids), found.exact) == (path, ids, exact)


# ------------------------------------------------------------------------------ what it refuses


def no_server(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


async def refusal(fake: Callable[[httpx.Request], httpx.Response], model: str | None = None) -> str:
    async with asking(fake) as endpoint:
        with pytest.raises(BenchError) as refused:
            await opened(endpoint, model, 0)
    return str(refused.value)


async def test_no_server() -> None:
    assert "there is no server at http://server:1" in await refusal(no_server)


async def test_something_else_than_a_server_of_models() -> None:
    assert "no OpenAI-compatible" in await refusal(lambda _: httpx.Response(200, text="hello"))


async def test_a_model_that_is_not_served() -> None:
    assert "serves m, not other" in await refusal(Fake(), "other")


async def test_one_of_several_must_be_chosen() -> None:
    several = Fake(served=("b", "a"))
    assert "serves a, b: choose one with --model" in await refusal(several)
    assert (await server(several, "b")).model == "b"


async def test_a_key_that_is_missing() -> None:
    assert "--key-env" in await refusal(lambda _: httpx.Response(401))


async def test_a_server_of_embeddings() -> None:
    said = await refusal(Fake("/v1/completions", "/v1/chat/completions"))
    assert "writes no text" in said
    assert "no /v1/completions here" in said


async def test_a_server_that_answers_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.bench.backend_measure.PAUSE", 0)
    async with asking(Fake(running=3)) as endpoint:
        timing = Timing(await opened(endpoint, None, 0), Plan(URL))
        with pytest.raises(BenchError, match="is answering 3 other requests: measure it idle"):
            await timing.idle()


def test_what_is_wrong_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "backend", "http://127.0.0.1:9"]) == 1
    assert "no server at http://127.0.0.1:9" in capsys.readouterr().err
    assert main(["bench", "backend", "http://h", "--key-env", "NOT_THERE"]) == 1
    assert "no NOT_THERE" in capsys.readouterr().err
    assert main(["bench", "backend", "http://h", "--prompts", "16"]) == 1
    for wrong in ("0,5", "a", "5,5"):
        with pytest.raises(SystemExit):
            main(["bench", "backend", "http://h", "--prompts", wrong])
    with pytest.raises(SystemExit):
        main(["bench", "backend", "http://h", "--usd-per-hour", "-1"])


# -------------------------------------------------------------------------------- what is warned


def timing(seconds: Mapping[tuple[int, int], list[float]], answered: float = 1.0) -> Timing:
    endpoint = Endpoint(httpx.AsyncClient(), URL, {})
    made = Timing(Server(endpoint, "m", None, rng=random.Random(0)), Plan(URL))
    made.seconds = dict(seconds)
    made.tokens = {
        (prompt, answer): [(prompt, round(answered * answer))] for prompt, answer in seconds
    }
    return made


def test_repetitions_that_scatter_are_warned_of() -> None:
    assert not timing({(16, 8): [1.0, 1.02, 0.98], (32, 8): [2.0, 2.1, 1.95]}).warnings()
    (said,) = timing({(16, 8): [1.0, 1.8, 0.5], (32, 8): [2.0, 3.9, 1.1]}).warnings()
    assert "not idle" in said


def test_answers_that_end_early_are_warned_of() -> None:
    (said,) = timing({(16, 8): [1.0]}, answered=0.2).warnings()
    assert "ended early" in said


# -------------------------------------------------------------------------------- what is printed


FOUND = Found(
    "Org/model",
    [Timed(16, 8, (0.3, 0.2, 0.25))],
    [Timed(32, 8, (0.4,)), Timed(64, 8, (0.5,))],
    Fitted(
        {
            "call": Term(0.0, 0.0, 0.01),
            "prefill": Term(0.00002, 0.00001, 0.00003),
            "decode": Term(0.0443211, 0.04, 0.05),
            "context": Term(0.0, 0.0, 0.0),
        },
        Term(1e-9, 0.0, 1e-6),
    ),
)


def test_the_block_is_what_the_configuration_takes() -> None:
    text = block(FOUND, Priced(2, 2.5))
    tree = yaml.safe_load(text)
    tree["models"]["Org/model"]["backends"] = ["http://a:1"]
    model = parse(yaml.safe_dump(tree), TABLE).config.models["Org/model"]
    assert model.alone == Idealised(0.0, 2e-5, 0.04432, 0.0, 2, 2.5)


def test_the_report_tells_errors_on_lengths_that_were_not_fitted() -> None:
    text = as_text(FOUND, Priced())
    assert f"not used in the fit {FOUND.median_error:.1%}" in text
    assert "none: the interval, 0 to 1e-06, holds 0" in text
    assert text.endswith(block(FOUND, Priced()))
    tree = json.loads(as_json(FOUND, Priced(), {"cpu": "one"}))
    assert tree["idealised"] == {"prefill": 2e-5, "decode": 0.04432}
    assert len(tree["held_out"]) == 2


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from app.bench.backend_plot import draw

    draw(FOUND, tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


# ----------------------------------------------------------------------------- the pair's servers


async def test_too_long_prompts_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    transport = httpx.MockTransport(fake)
    monkeypatch.setattr(
        "app.bench.backend_measure.client", lambda _: httpx.AsyncClient(transport=transport)
    )
    found = await measure(Plan(URL, prompts=(16, 64, 256, 9999), rounds=1))
    assert max(one.prompt for one in found.used) == 256
    with pytest.raises(BenchError, match="2048 tokens at most"):
        await measure(Plan(URL, prompts=(16, 9999), rounds=1))


@pytest.mark.slow
@pytest.mark.xdist_group("pair")
async def test_the_whole_command_against_the_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = await embedded.start()
    try:
        options = ["--seconds", "20", "--repetitions", "4", "--json", "--usd-per-hour", "3"]
        picture = tmp_path / "it.png"
        line = ["bench", "backend", f"{pair.urls['large']}/v1", *options, "--plot", str(picture)]
        assert await asyncio.to_thread(main, line) == 0
    finally:
        await pair.close()
    tree = json.loads(capsys.readouterr().out)
    assert tree["model"] == "large"
    assert {(one["prompt"], one["completion"]) for one in tree["fitted"]} == {
        (prompt, answer) for prompt in (16, 64, 256, 1024) for answer in (1, 16, 64, 256)
    }
    assert tree["idealised"]["decode"] > 0
    assert 0 <= tree["median_error"] < 1, "on a busy machine it is no small number"
    assert yaml.safe_load(tree["yaml"])["models"]["large"]["usd_per_hour"] == 3
    assert picture.read_bytes().startswith(b"\x89PNG")
