"""The models: SAM 2 and SAM 3. No other package imports torch."""
