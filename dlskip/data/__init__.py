"""Tasks, prompts, data sources and the prepared splits."""
