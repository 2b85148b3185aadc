"""The API of X-AnyLabeling's remote server."""
