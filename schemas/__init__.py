"""The wire types: what clients send and what they are answered, one module a contract.

Pydantic only: nothing here imports the server, so that the same types serve the routes, the OpenAPI
document and the tests.
"""
