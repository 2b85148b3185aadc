"""The SAM3 Space's API."""
