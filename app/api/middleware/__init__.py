"""ASGI middleware that every HTTP request passes before a route; `app.main` lists it, outermost first."""
