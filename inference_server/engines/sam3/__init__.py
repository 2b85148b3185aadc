"""SAM 3: text and exemplar boxes describe concepts."""
