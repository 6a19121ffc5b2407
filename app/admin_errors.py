"""What the admin API answers when it says no: every error in one shape."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.admin_models import ErrorBody, ErrorView, problem_views
from router.config import ConfigError, Problem
from router.revisions import JournalError, StaleError, UnknownError


class AdminError(Exception):
    """An answer other than success: `code` is for programs, `message` for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


CODES: Mapping[type[Exception], str] = {
    ConfigError: "invalid_config",
    StaleError: "stale",
    JournalError: "store_unavailable",
    UnknownError: "unknown",
    RequestValidationError: "invalid_parameter",
}
"""What refuses a request without being an `AdminError`."""


def code_of(error: Exception) -> str | None:
    """The code of the answer if `error` refuses the request; None if it is a mistake of ours."""
    return error.code if isinstance(error, AdminError) else CODES.get(type(error))


def answer_errors(app: FastAPI) -> None:
    """Answer whatever a handler raises."""
    app.add_exception_handler(AdminError, _on_refusal)
    app.add_exception_handler(ConfigError, _on_problems)
    app.add_exception_handler(StaleError, _on_stale)
    app.add_exception_handler(JournalError, _on_journal)
    app.add_exception_handler(UnknownError, _on_unknown)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_parameters)
    app.add_exception_handler(Exception, _on_mistake)


def _error(
    status: int, code: str, message: str, problems: tuple[Problem, ...] = ()
) -> JSONResponse:
    body = ErrorBody(message=message, code=code, problems=problem_views(problems))
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(ErrorView(error=body).model_dump(), status, headers)


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, AdminError)
    return _error(error.status, error.code, str(error))


async def _on_problems(_: Request, error: Exception) -> Response:
    assert isinstance(error, ConfigError)
    count = len(error.problems)
    message = f"{error.source} was refused: {count} problem{'s' if count > 1 else ''}"
    return _error(422, "invalid_config", message, error.problems)


async def _on_stale(_: Request, error: Exception) -> Response:
    return _error(412, "stale", str(error))


async def _on_journal(_: Request, error: Exception) -> Response:
    return _error(503, "store_unavailable", str(error))


async def _on_unknown(_: Request, error: Exception) -> Response:
    return _error(404, "unknown", str(error))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, "http", error.detail)


async def _on_parameters(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    where = ".".join(map(str, found["loc"]))
    return _error(422, "invalid_parameter", f"{where}: {found['msg']}")


async def _on_mistake(_request: Request, _exception: Exception) -> Response:
    return _error(500, "mistake", "Tandem made a mistake; its log has the details")
