"""Caches of embeddings, mask inputs and image files."""
