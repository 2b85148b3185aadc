"""Segmind's API."""
