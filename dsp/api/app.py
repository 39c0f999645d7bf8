"""Puts the application together; dsp.api.server runs it."""

from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from dsp.api import errors, openapi
from dsp.api.context import Services
from dsp.api.middleware import Observer
from dsp.api.routes import catalog, changes, delivery, explain, keys, operations, reports


def create_app(services: Services) -> FastAPI:
    """Return the ASGI application; it opens and closes nothing that `services` holds."""
    # Its page at /docs loads nothing from elsewhere: whoever uses it holds a key, and the host may have no way out.
    app = FastAPIOffline(title="DSP", version=version("dsp"), redirect_slashes=False, redoc_url=None)
    app.state.services = services
    app.include_router(catalog.router())
    app.include_router(delivery.router)
    app.include_router(changes.router)
    app.include_router(reports.router)
    app.include_router(explain.router)
    app.include_router(keys.router)
    app.include_router(operations.router)
    app.add_middleware(Observer)
    errors.install(app)
    openapi.install(app)
    return app
