"""Training and evaluation of the demo checkpoints; see `python -m training --help`."""
