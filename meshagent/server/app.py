"""The API as one ASGI application: App Mesh's operations, documents, the operator's calls, behind signatures. Only puts together."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from meshagent.api import appmesh, documents, envoy, operator
from meshagent.api.access import AccessKeys
from meshagent.api.configuration import Configuration


def application(
    configuration: Configuration,
    operations: operator.Operations,
    envoys: envoy.Operations,
    preview: documents.Preview,
    keys: Mapping[str, str],
    account: str,
) -> ASGIApp:
    """`keys` are secrets by access key id."""
    routes = [
        *operator.routes(operations),
        *envoy.routes(envoys),
        *documents.routes(configuration, preview=preview),
        *appmesh.routes(configuration, account=account),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refuse})
    return AccessKeys(app, keys.get, operator.UNSIGNED)


async def _refuse(request: Request, error: Exception) -> Response:
    """What no route takes, in the form of every other refusal."""
    assert isinstance(error, HTTPException)
    code = "UnknownOperationException"
    body = {"message": f"{request.method} {request.url.path} is no operation of this API", "code": code}
    return JSONResponse(body, error.status_code, {"x-amzn-ErrorType": code, **(error.headers or {})})
