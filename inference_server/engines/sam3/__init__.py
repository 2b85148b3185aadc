"""SAM 3: prompts by text and exemplar boxes."""
