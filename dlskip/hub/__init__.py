"""What users load and publish: `from_pretrained`, `save_pretrained`, the release format and its card."""
