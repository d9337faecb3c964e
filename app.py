"""The application: settings, routers, error handlers and lifespan put together.

Run it with `uvicorn app:app`, or with `./start-backend.sh`, which reads HOST and PORT.
"""

import sys
from functools import partial

from starlette.middleware.cors import CORSMiddleware

from server import errors
from server.auth import routes as auth
from server.chat import routes as chat
from server.edge import App
from server.health import routes as health
from server.images import routes as images
from server.messages import routes as messages
from server.monitoring import page, telemetry
from server.projects import routes as projects
from server.sessions import routes as sessions
from server.settings import BadSettings, Settings, get_settings
from server.startup import lifespan
from server.version import VERSION

MAX_BODY_BYTES = 64 * 1024
# In the order in which a newcomer reads about them.
FEATURES = ("health", "auth", "projects", "sessions", "messages", "images", "chat")


def create_app(settings: Settings) -> App:
    """The application for these settings; nothing is opened before its lifespan begins."""
    app = App(
        title="Clawd Backend",
        version=VERSION,
        summary="AI project workspaces: each project with a database, sessions and an agent.",
        lifespan=lifespan,
        docs_url="/docs" if settings.docs else None,
        openapi_url="/openapi.json" if settings.docs else None,
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=MAX_BODY_BYTES,
        telemetry=telemetry.config(settings),
        openapi_tags=[{"name": name} for name in FEATURES],
    )
    app.unlimited = page.around
    errors.install(app)
    if settings.cors_origins:
        # Not `add_middleware`: a page could not read the 413 and 500 of FastAPI's outer layers.
        app.outermost = partial(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["X-Request-ID", "Retry-After", "Idempotent-Replayed"],
        )
    # Routes are tried in the order of their features: what is asked most comes first.
    for feature in (chat, messages, sessions, projects, images, auth, health):
        app.include_router(feature.router)
    return app


try:
    app = create_app(get_settings())
except BadSettings as error:
    sys.exit(f"clawd-backend can't start: {error}")
