"""Datasette as an ASGI application, as its manual deploys it behind uvicorn: nothing here is of this project.

With SERVER_SPANS set, inside contrib's ASGI middleware.
"""

import os

from datasette.app import Datasette

app = Datasette([], memory=True).app()

if os.environ.get("SERVER_SPANS"):
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    app = OpenTelemetryMiddleware(app)
