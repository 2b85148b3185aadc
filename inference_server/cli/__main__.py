"""Entry point of `python -m inference_server.cli`."""

from inference_server.cli import main

main()
