"""Errors on the wire: RFC 9457 members beside OpenAI's ``error``, in one body that both kinds of client read."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from api.validation import from_validation
from shared.errors import (
    BodyTooLarge,
    InvalidRequest,
    JobFailed,
    KeyReused,
    MethodNotAllowed,
    NotFound,
    QuotaExceeded,
    SightlineError,
    StoreUnavailable,
)
from shared.store.connection import NotReplicated
from shared.store.pool import PoolEmpty
from shared.store.trouble_log import log_trouble

log = structlog.get_logger()

_TEXT = {"type": "string"}
_PROBLEM: dict[str, Any] = {
    "type": _TEXT,
    "title": _TEXT,
    "status": {"type": "integer"},
    "detail": _TEXT,
    "error": {"$ref": "#/components/schemas/Error"},
}
#: Every error answer, for the API's description.
DESCRIBED: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "an error, in RFC 9457's members and OpenAI's",
        "content": {
            "application/problem+json": {
                "schema": {
                    "type": "object",
                    "properties": _PROBLEM | {"instance": _TEXT},
                    "required": list(_PROBLEM),
                    "additionalProperties": True,  # RFC 9457: what an error has beside them
                }
            }
        },
    }
}


#: Paths of OpenAI's API: there a bad picture is a 400, and its code is one of OpenAI's.
OPENAI_PATHS = ("/v1/chat/", "/v1/responses", "/v1/batches")
#: Source: the enum of ``ResponseError.code`` in the openai package 3.54; `context_length_exceeded` is what LangChain looks for,
#: and `insufficient_quota` what its own API says where waiting a minute does not help.
OPENAI_CODES = {
    "bad_media_reference": "invalid_image_url",
    "address_refused": "invalid_image_url",
    "upload_unknown": "image_file_not_found",
    "unsupported_media": "unsupported_image_media_type",
    "media_unreachable": "failed_to_download_image",
    "media_unreadable": "image_parse_error",
    "media_too_large": "image_too_large",
    "prompt_too_long": "context_length_exceeded",
    "quota_exceeded": "insufficient_quota",
    "internal": "server_error",
    "engine_failed": "server_error",
    "worker_lost": "server_error",
}
_BAD_INPUT = (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, HTTPStatus.UNPROCESSABLE_ENTITY)


def openai_error(error: SightlineError) -> tuple[int, dict[str, Any]]:
    """Give the status and the error object as OpenAI's API has them."""
    status = 400 if error.status in _BAD_INPUT and not isinstance(error, KeyReused) else error.status
    body = error.as_error()
    return status, body | {"code": OPENAI_CODES.get(error.code, error.code)}


def problem(error: SightlineError, *, request_id: str | None = None, openai: bool = False) -> JSONResponse:
    """Render an error."""
    status, short = openai_error(error) if openai else (error.status, error.as_error())
    body: dict[str, Any] = {
        "type": f"urn:sightline:error:{error.code}",
        "title": (type(error).__doc__ or error.code).splitlines()[0],
        "status": status,
        "detail": error.message,
        "error": short,
        **error.extra,
    }
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    if request_id:
        body["instance"] = f"urn:sightline:request:{request_id}"
    hopeless = isinstance(error, QuotaExceeded) or (isinstance(error, JobFailed) and not error.retryable)
    if hopeless or status in {HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}:
        headers["x-should-retry"] = "false"  # the openai SDK would repeat a 409, a 429 and every 5xx
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body, status_code=status, headers=headers, media_type="application/problem+json")


def install_handlers(app: FastAPI) -> None:
    """Answer every error in the one shape."""

    def answer(request: Request, error: SightlineError) -> JSONResponse:
        request_id = getattr(request.state, "request_id", None)
        if note := getattr(request.state, "body_note", None):
            error.message += f" ({note}; application/json is wanted)"
        return problem(error, request_id=request_id, openai=request.url.path.startswith(OPENAI_PATHS))

    @app.exception_handler(SightlineError)
    async def _ours(request: Request, error: SightlineError) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, from_validation(list(error.errors())))

    @app.exception_handler(RedisError)
    async def _away(request: Request, error: RedisError) -> JSONResponse:
        log_trouble(error)
        message = f"{error}; try again" if isinstance(error, PoolEmpty | NotReplicated) else None
        ident = error.ident if isinstance(error, NotReplicated) else None  # it stands, and a repeat with its key finds it
        return answer(request, StoreUnavailable(message, retry_after_s=2, extra={"id": ident} if ident else None))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        allow = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow")
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and request.method == "OPTIONS" and allow:
            return Response(status_code=204, headers={"allow": f"{allow}, OPTIONS"})
        known: dict[int, SightlineError] = {
            404: NotFound(f"there is nothing at {request.url.path[:200]}; GET /openapi.json lists what there is"),
            405: MethodNotAllowed(),
            413: BodyTooLarge(),
        }
        refused = error.__cause__ if isinstance(error.__cause__, SightlineError) else None  # FastAPI wraps it: a body was read
        return answer(request, refused or known.get(error.status_code) or InvalidRequest(str(error.detail)))

    @app.exception_handler(Exception)
    async def _unknown(request: Request, error: Exception) -> JSONResponse:
        log.error("request.crashed", exc_info=error)
        response = answer(request, SightlineError())
        response.headers["connection"] = "close"  # nobody knows what is left of this request on it
        response.headers["x-request-id"] = request.state.request_id  # it goes past the middleware that names the others
        return response
