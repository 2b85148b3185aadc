"""Images and prompts become masks; knows no HTTP and no vendor."""
