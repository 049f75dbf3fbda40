"""Backbones: loading them, tuning their weights, and the folder in which a trained one is stored."""
