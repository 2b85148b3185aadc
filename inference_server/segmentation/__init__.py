"""Turns images and prompts into masks; independent of HTTP and of any vendor's API."""
