"""The pipeline around the stages: running them, recipes, checks, what is shown at the end."""
