"""The API of X-AnyLabeling: routes."""
