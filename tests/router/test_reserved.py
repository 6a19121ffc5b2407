"""What a client may not put into a body, and what looks like it and may."""

from __future__ import annotations

from typing import Any

import pytest

from router.faults import FaultError
from router.reserved import RESERVED, check
from router.sections import RequestsConfig

NOTHING = RequestsConfig()
CDN = RequestsConfig(media_hosts=("cdn.example.org", "[::1]"))


def chat(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def image(url: Any) -> dict[str, Any]:
    return chat({"type": "image_url", "image_url": url})


def refused(body: dict[str, Any], settings: RequestsConfig = NOTHING) -> tuple[str | None, ...]:
    with pytest.raises(FaultError) as error:
        check(body, settings)
    fault = error.value.fault
    assert fault.status == 400
    assert "\n" not in fault.message
    return fault.code, fault.param


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_fields_are_refused_unless_they_are_allowed(name: str) -> None:
    assert refused({name: {"x": 1}}) == ("field_not_allowed", name)
    check({name: {"x": 1}}, RequestsConfig.model_validate({"allow": (name,)}))
    nothings: tuple[Any, ...] = (None, {}, "", 0)
    for empty in nothings:
        check({name: empty}, NOTHING)


@pytest.mark.parametrize(
    "key",
    ["tandem_gate", "tandem_gate_force", "tandem", "kv_transfer_params", "kv_cache_report_mode"],
)
def test_the_arguments_of_the_gateways_own_rule(key: str) -> None:
    assert refused({"vllm_xargs": {"fine": 1, key: "x"}})[1] == f"vllm_xargs.{key}"


def test_other_arguments_of_the_engine_travel() -> None:
    check({"vllm_xargs": {"ngram_size": 3}}, NOTHING)
    check({"vllm_xargs": "a backend will say what is wrong with this"}, NOTHING)
    check({"vllm_xargs": {"kv_transfer_params": 1}}, RequestsConfig(allow=("kv_transfer_params",)))
    everything = RequestsConfig.model_validate({"allow": RESERVED, "media_hosts": ("*",)})
    assert refused({"vllm_xargs": {"tandem_gate": 1}}, everything)[0] == "field_not_allowed"


LINKED = {
    "image": image({"url": "http://169.254.169.254/latest/meta-data"}),
    "bare": image("http://10.0.0.1/"),
    "untyped": chat({"image_url": "http://10.0.0.1/"}),
    "video": chat({"type": "video_url", "video_url": {"url": "https://a/b"}}),
    "audio": chat({"type": "audio_url", "audio_url": {"url": "https://a/b"}}),
    "file": image("file:///etc/passwd"),
    "relative": image("/etc/passwd"),
    "blank": image(" data:image/png;base64,AA"),
    "number": image({"url": 7}),
    "responses": {"input": [{"content": [{"type": "input_image", "image_url": "http://a"}]}]},
    "responses-file": {"input": [{"content": [{"type": "input_file", "file_url": "http://a"}]}]},
    "anthropic": chat({"type": "image", "source": {"type": "url", "url": "http://a"}}),
    "anthropic-result": chat({"type": "tool_result", "content": [{"image_url": "http://a"}]}),
    "rerank": {"query": "x", "documents": [{"content": [{"image_url": "http://a"}]}]},
    "score": {"text_1": {"content": [{"image_url": "http://a"}]}},
    "mcp-anthropic": {"mcp_servers": [{"type": "url", "url": "http://a"}]},
    "listed": image(["http://a"]),
    "nested": chat({"type": "document", "source": {"content": [{"image_url": "http://a"}]}}),
    "mcp": {"tools": [{"type": "mcp", "server_url": "http://a"}]},
}


@pytest.mark.parametrize("body", LINKED.values(), ids=LINKED)
def test_a_link_is_not_followed_for_strangers(body: dict[str, Any]) -> None:
    assert refused(body)[0] == "link_not_allowed"
    assert refused(body, CDN)[0] == "link_not_allowed"
    check(body, RequestsConfig(media_hosts=("*",)))


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.org",
        "https://cdn.example.org/a.png?x=http://other",
        "http://CDN.example.org:8080/a",
        "https://cdn.example.org?x",
        "http://[::1]/a",
        "data:image/png;base64,AAAA",
        "DATA:image/png;base64,AAAA",
    ],
)
def test_what_may_be_followed(url: str) -> None:
    check(image(url), CDN)


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.org@evil.example/",
        "https://evil.example\\@cdn.example.org/",
        "https://cdn.example.org\\.evil.example/",
        "https://cdn.example.org.evil.example/",
        "https://evil.example#cdn.example.org/",
        "https://cdn.example.org:80:81/",
        "https:/cdn.example.org/",
        "ftp://cdn.example.org/",
        "\thttps://cdn.example.org/",
        "https://cdn.example.org\n.evil.example/",
        "https://cdn.example.org%2eevil.example/",
        "https://xcdn.example.org/",
        "https://cdn.example.org\u3002evil/",
    ],
)
def test_what_only_looks_like_an_allowed_host(url: str) -> None:
    assert refused(image(url), CDN)[0] == "link_not_allowed"


@pytest.mark.parametrize("name", ["prompt_embeds", "image_embeds", "audio_embeds", "video_embeds"])
def test_tensors_in_messages(name: str) -> None:
    assert refused(chat({"type": name, name: "AAAA"})) == ("field_not_allowed", name)
    check(chat({"type": name, name: "AAAA"}), RequestsConfig.model_validate({"allow": (name,)}))


def test_text_about_links_travels() -> None:
    check(chat({"type": "text", "text": "http://10.0.0.1/ image_url"}), NOTHING)
    check({"messages": [{"role": "user", "content": "image_url: http://a"}]}, NOTHING)
    check({"documents": [{"source": "https://a", "url": "https://a", "text": "x"}]}, NOTHING)
    check({"metadata": {"image_url": "https://a"}}, NOTHING)
    schema = {"type": "object", "properties": {"image_url": {"default": "http://a"}}}
    check({"tools": [{"function": {"parameters": schema}}, 7], "response_format": schema}, NOTHING)
    used = {"type": "tool_use", "input": {"image_url": "http://a"}}
    check(chat(used, {"type": "image_url", "image_url": None}, {"image_url": {}}), NOTHING)
    check({"prompt": [1, 2, 3], "input": ["a", "b"], "messages": "no list"}, NOTHING)


def test_depth_is_no_way_around() -> None:
    deep: Any = {"image_url": "http://10.0.0.1/"}
    for _ in range(100_000):
        deep = [deep]
    assert refused(chat(deep))[0] == "link_not_allowed"
