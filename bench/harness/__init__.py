"""What the benchmark scripts share: building, starting, measuring, reporting."""
