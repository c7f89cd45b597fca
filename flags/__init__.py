"""Command-line binaries: they parse flags and call the library."""
