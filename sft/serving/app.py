"""The web application: its routes and its page."""

import time
from collections.abc import Mapping
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from sft.serving.endpoints import Endpoints
from sft.serving.engine import Engine
from sft.serving.guard import Access, Guard
from sft.serving.web import HANDLERS, PAGE, page


def make_app(
    engines: Mapping[str, Engine], max_tokens: int, access: Access, trim: bool = False
) -> Starlette:
    """Return the application.

    Args:
        engines: by the name that the model has in requests.
        max_tokens: the most tokens of an answer.
        access: who may ask.
        trim: leave out the oldest turns of a chat that does not fit the context.
    """
    api = Endpoints(engines, max_tokens, int(time.time()), trim)
    routes = [
        Route("/", partial(page, PAGE / "index.html")),
        Route("/page.css", partial(page, PAGE / "page.css")),
        Route("/page.js", partial(page, PAGE / "page.js")),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/health", api.health),
    ]
    middleware = [Middleware(Guard, access=access)]
    if access.origins:
        # A browser shows an answer to another site's page only if the server allows it.
        cors = Middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
        middleware.insert(0, cors)
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers=HANDLERS,
        lifespan=api.lifespan,
    )
