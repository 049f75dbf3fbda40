"""The look of every picture that dlskip draws, of benchmarks and of the report."""
