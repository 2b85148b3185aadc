"""Roboflow's API."""
