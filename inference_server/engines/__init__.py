"""The models. No other package imports torch."""
