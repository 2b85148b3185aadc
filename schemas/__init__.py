"""Pydantic models of all requests and responses, one module per API.

Nothing here imports the server, so the routes, the OpenAPI document and the tests share one
definition.
"""
