"""Running a skipping model: decoding, lossless decoding, scoring, tracing, exporting."""
