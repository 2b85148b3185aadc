"""SAM 2: points and boxes select objects."""
