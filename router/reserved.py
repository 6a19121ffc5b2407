"""Reserved: what a client may not put into a body, for only the gateway may tell it to a backend.

Backends trust whoever reaches them. Some of their fields name files and hosts, hand over other
requests' memory, are unpacked by code that was not made for strangers, or speak to the gateway's
own rule inside the engine. And a link to an image is fetched by the backend, from inside the
network that it stands in. All of that is refused here, by name, unless the configuration allows it
(`requests`); everything else travels.

Only what is refused is known here. It runs on every request: a chat of plain text costs some
microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from router.faults import FaultError
from router.sections import RequestsConfig, Reserved
from router.wire import bad

__all__ = ["check"]

RESERVED: tuple[str, ...] = get_args(Reserved)
ARGUMENTS = "vllm_xargs"
"""The field whose keys vLLM hands to everything in its engine, beside its own."""
OURS = "tandem"
"""How the arguments of the gate begin, which only the gateway may give."""
INNER = frozenset({"kv_transfer_params", "ec_transfer_params", "kv_cache_report_mode"})
"""Keys by which vLLM keeps its own settings among those arguments."""
CONTENT = (
    "messages", "input", "system", "prompt", "documents", "query", "queries", "items",
    "text_1", "text_2", "data_1", "data_2",
)  # fmt: skip
"""Fields that hold what is read, on any of the surfaces."""
SERVERS = {"tools": "server_url", "mcp_servers": "url"}
"""Fields whose items may name a server that a backend is to ask, and where."""
LINKS = frozenset({"image_url", "video_url", "audio_url", "file_url"})
"""Parts of a message that a backend fetches; each is a URL or has one."""
TENSORS = frozenset({"prompt_embeds", "image_embeds", "audio_embeds", "video_embeds"})
"""Parts of a message that a backend unpacks into tensors."""
SOURCE = "source"
"""What has the URL in Anthropic's parts, and is a name in some documents."""
PARTS = LINKS | TENSORS | {SOURCE}
_AUTHORITY = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(?=[/?#]|\Z)")
"""A URL up to its path. What parsers read in two ways (a user, a backslash, a blank) is none."""
ANY = "*"


def check(body: Mapping[str, Any], settings: RequestsConfig) -> None:
    """Raise `FaultError` 400 if the body holds what is reserved."""
    for name in RESERVED:
        if body.get(name) and name not in settings.allow:
            raise _reserved(name)
    if arguments := body.get(ARGUMENTS):
        _check_arguments(arguments, settings)
    for name in CONTENT:
        if type(found := body.get(name)) in (list, dict):
            _check_content(name, found, settings)
    for name, link in SERVERS.items():
        if isinstance(servers := body.get(name), list):
            for server in servers:
                if isinstance(server, dict):
                    _check_link(name, server.get(link), settings)


def _check_arguments(arguments: Any, settings: RequestsConfig) -> None:
    for key in arguments if isinstance(arguments, dict) else ():
        if key.startswith(OURS) or (key in INNER and key not in settings.allow):
            raise _reserved(f"{ARGUMENTS}.{key}"[:100])


def _check_content(name: str, content: Any, settings: RequestsConfig) -> None:
    """Look at every part, however deep: without recursion, which has a limit."""
    left = [content]
    while left:
        part = left.pop()
        if type(part) is list:
            left += [each for each in part if type(each) in (dict, list)]
            continue
        called = part.get("type") == "tool_use"  # its input is what a model said, not a part
        for key, value in part.items():
            if key in PARTS:
                _check_part(name, key, value, settings)
            if type(value) in (dict, list) and not (called and key == "input"):
                left.append(value)


def _check_part(name: str, key: str, value: Any, settings: RequestsConfig) -> None:
    link = value.get("url") if type(value) is dict else value
    if key in TENSORS and value and key not in settings.allow:
        raise _reserved(key)
    if key in LINKS or (key == SOURCE and type(value) is dict):
        _check_link(name, link, settings)


def _check_link(name: str, link: Any, settings: RequestsConfig) -> None:
    if link is None or ANY in settings.media_hosts:
        return
    if isinstance(link, str):
        if link[:5].lower() == "data:":
            return
        found = _AUTHORITY.match(link)
        if found and found[1].lower() in settings.media_hosts:
            return
    raise bad(
        f"{name} holds a link that backends may not follow: send the data itself (data:...), or "
        "ask the operator to allow its host (requests.media_hosts)",
        name,
        "link_not_allowed",
    )


def _reserved(name: str) -> FaultError:
    return bad(
        f"{name} is not for clients: leave it out, or ask the operator (requests.allow)",
        name,
        "field_not_allowed",
    )
