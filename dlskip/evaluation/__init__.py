"""Quality and speed of every method, measured and recorded."""
