"""Registries, value types, random numbers and files, used by the whole library."""
