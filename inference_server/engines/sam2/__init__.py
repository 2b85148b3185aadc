"""SAM 2: prompts by points and boxes."""
