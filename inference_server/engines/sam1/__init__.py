"""SAM 1: points and boxes select objects."""
