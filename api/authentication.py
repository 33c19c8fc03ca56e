"""Checks a caller's API key before a route runs, and gives the route what it asks of every request.

The keys themselves are made and ended over HTTP in :mod:`api.admin_keys`, and kept in :mod:`shared.store.api_keys`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, get_type_hints

from fastapi import Depends, Request, Response
from fastapi._compat import ModelField
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.routing import APIRoute
from fastapi.utils import create_model_field
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from api.allowance import count_request, left_today
from api.checked_request import CheckedRequest, as_json
from api.json_body import check_json
from api.open_requests import KEYS_EVERY_S
from api.services import Services, services_of
from shared.errors import AdminKeyRequired, KeyInvalid
from shared.store.api_keys import ApiKey
from shared.store.usage import LOCAL

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_AS_BUILT = create_model_field("answer", Any, mode="serialization")


class KeyedRoute(APIRoute):
    """A route that asks for the caller's API key, where keys are required, before it reads a byte of the body."""

    for_admins = False

    def get_route_handler(self) -> Handler:
        """Put the question in front of what answers."""
        answer, takes_body = self.get_answer(), self.body_field is not None
        known = frozenset(name for param in get_flat_dependant(self.dependant).query_params for name in _names(param))

        async def ask_first(request: Request) -> Response:
            key = await _identify(request, services_of(request), for_admins=self.for_admins)
            request.state.key, request.state.owner = key, key.id if key else LOCAL
            request.state.asked_s = time.monotonic()
            checked = CheckedRequest(as_json(request.scope) if takes_body else request.scope, request.receive)
            checked.check_target()
            checked.check_query(known)
            try:
                return await answer(checked)
            finally:  # also after an error: a job may have been created, or the day's limit be used up
                if key:
                    request.state.allowance |= await left_today(services_of(request).usage, key)

        return ask_first

    def get_answer(self) -> Handler:
        """Give what answers those who may ask: FastAPI's own handler.

        An answer goes out as its function built it: ``response_model`` describes it, and is not run over it.
        """
        described, self.response_field = self.response_field, _AS_BUILT
        handler = super().get_route_handler()
        self.response_field = described
        return handler


def _names(param: ModelField) -> list[str]:
    """Give the names of a query parameter, or of those that a model of them stands for."""
    kind = param.field_info.annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [field.alias or name for name, field in kind.model_fields.items()]
    return [param.alias]


class AdminRoute(KeyedRoute):
    """A route for keys that may administer others. A gateway without keys lets nobody in: whom it serves may be anybody."""

    for_admins = True


class FastBodyRoute(KeyedRoute):
    """A busy route: a sound body goes straight to its function; a bad one goes through FastAPI, to its error.

    FastAPI describes the route, and says of every other request what is wrong with it. Its way to a function costs 70 us.
    """

    def get_answer(self) -> Handler:
        """Read the body in one step, without Python's objects between JSON and model."""
        explain, endpoint = super().get_answer(), self.endpoint
        model: type[BaseModel] = get_type_hints(endpoint)["body"]

        async def answer(request: Request) -> Response:
            if request.headers.get("content-type") != "application/json":
                return await explain(request)
            try:
                data = await request.body()
                body = model.model_validate_json(data)
                check_json(data)
            except (ValueError, ClientDisconnect):  # pydantic's errors are ValueErrors
                return await explain(request)
            await _ask_again(request)
            response: Response = await endpoint(body, request)
            return response

        return answer


async def _identify(request: Request, services: Services, *, for_admins: bool) -> ApiKey | None:
    """Tell who calls, and count the request; None where no keys are required.

    Raises:
        KeyInvalid: a key is required, and none or no valid one was sent.
        AdminKeyRequired: the route is for keys that may administer others.
        RateLimited: the key has no request left in this minute.
    """
    if not services.settings.keys_required:
        if for_admins:
            raise AdminKeyRequired(_NO_KEYS)
        return None
    key = await services.keys.check(_secret_of(request))
    if for_admins and not key.admin:
        raise AdminKeyRequired
    request.state.allowance = await count_request(services.keys, key)
    return key


_NO_KEYS = "this gateway asks for no API keys, so nobody can show the right to administer them; `sightline keys` does it here"


def _secret_of(request: Request) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise KeyInvalid
    return secret.strip()


async def _ask_again(request: Request) -> None:
    """Check the key once more, where the body took long: it may have been revoked meanwhile.

    Raises:
        KeyInvalid: it was.
    """
    services = services_of(request)
    if services.settings.keys_required and time.monotonic() - request.state.asked_s > KEYS_EVERY_S:
        await services.keys.check(_secret_of(request))


def owner_of(request: Request) -> str:
    """Give a route's caller: the id of the API key. Only a :class:`KeyedRoute` knows it."""
    owner: str = request.state.owner
    return owner


async def get_owner(request: Request) -> str:
    """Give the caller to a route. FastAPI has read the body by then."""
    await _ask_again(request)
    return owner_of(request)


OwnerDep = Annotated[str, Depends(get_owner)]
