"""How the demo checkpoints were made: `python -m training --help`."""
