"""Command-line binaries: they parse and call, nothing else."""
