"""The models: the only room that imports torch."""
