"""Segments many image files and writes result files, without a server.

Uses the same service as the server, so masks are identical. Progress is reported to a callback;
only `cli` writes to the terminal.
"""
