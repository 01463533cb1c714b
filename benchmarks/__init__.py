"""Benchmarks: ratios of CPU time, both sides in one run. `make bench` runs them all."""
