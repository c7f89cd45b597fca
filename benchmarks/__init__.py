"""Benchmarks of speed, memory and size; each prints a ratio to a named reference."""
