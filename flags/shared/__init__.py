"""Code that the binaries share."""
