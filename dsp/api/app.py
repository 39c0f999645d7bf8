"""Puts the application together; dsp.api.server runs it."""

from importlib.metadata import version

from fastapi import FastAPI

from dsp.api import errors, manual, openapi
from dsp.api.context import Services
from dsp.api.middleware import Observer
from dsp.api.routes import catalog, changes, delivery, explain, keys, operations, reports


def create_app(services: Services) -> FastAPI:
    """Return the ASGI application; it opens and closes nothing that `services` holds."""
    app = FastAPI(title="DSP", version=version("dsp"), redirect_slashes=False, docs_url=None, redoc_url=None)
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
    manual.install(app)
    return app
