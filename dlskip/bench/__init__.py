"""Measured speed of a skipping model under ``generate()``: against itself, its backbone, and what could be reached."""
