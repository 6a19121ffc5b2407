"""Why a request is refused, in vLLM's error shape."""

from __future__ import annotations

from typing import Any, NoReturn


class Refusal(Exception):  # noqa: N818  # it is an answer, named for what it is
    """An answer that is an error: HTTP status, vLLM's `type`, message, and the field at fault."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param

    def body(self) -> dict[str, Any]:
        """The JSON that vLLM would send."""
        error = {"message": self.message, "type": self.kind, "param": self.param}
        return {"error": {**error, "code": self.status}}


def refuse(message: str, param: str | None = None, value: object = None) -> NoReturn:
    """Raise the 400 of a field whose value makes no sense, worded as vLLM words it."""
    named = [f"parameter={param}"] if param else []
    named += [f"value={value}"] if param and value is not None else []
    suffix = f" ({', '.join(named)})" if named else ""
    raise Refusal(400, "BadRequestError", message + suffix, param)


def unknown_model(name: str, known: list[str]) -> Refusal:
    """404 for a model that is not served here."""
    message = f"The model `{name}` does not exist. Valid aliases: {', '.join(known)}."
    return Refusal(404, "NotFoundError", message, "model")


def queue_full() -> Refusal:
    """503 for a request that cannot even wait, in the words of vLLM's admission control."""
    message = (
        "The engine is currently busy and cannot accept new requests. "
        "Please try again later or on a different instance."
    )
    return Refusal(503, "Service Unavailable", message)


def aborted() -> Refusal:
    """500 for a request that was under way when the server was put to sleep at once."""
    return Refusal(500, "InternalServerError", "The request was aborted: the server sleeps.")


def weightless() -> Refusal:
    """500 for a request to a model that was woken without its weights."""
    message = "A sleep of level 2 has discarded the weights, and reload_weights was not called."
    return Refusal(500, "InternalServerError", message)


def broken() -> Refusal:
    """500 for an error of ours; what it was is in the server's log only."""
    return Refusal(500, "InternalServerError", "Internal server error")
