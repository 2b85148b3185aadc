"""Benchmarks of the server against reference implementations from the same libraries.

`python -m benchmarks --help` lists them. Each one times the reference and the server alternately,
in one run on one machine: ratios are comparable between machines, milliseconds are not.
"""
