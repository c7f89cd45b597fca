"""What every room builds on: registries, value types, random numbers, files."""
