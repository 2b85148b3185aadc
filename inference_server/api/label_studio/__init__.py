"""The ML backend of Label Studio."""
