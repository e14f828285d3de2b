"""The page in the browser, and the JSON API behind it.

HTTP requests enter; pages, JSON and server-sent events leave. The API runs the same job manager as
the gRPC services, with the same tokens and limits. `static` holds the page, `take_home` the
files that a user downloads with a model. Needs the extra "studio".
"""
