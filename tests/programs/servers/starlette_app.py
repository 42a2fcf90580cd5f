"""Truth: as ../python/errands.py tells, by Starlette's pool for endpoints that are no coroutines, which is anyio's. ASGI:
`starlette_app:application`."""
from errands import noted
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route


def endpoint(request):
    return Response(noted(request.url.path, request.headers.get("x-request-id")))


application = Starlette(routes=[Route("/{path:path}", endpoint)])
