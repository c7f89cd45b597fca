"""The registered granularities, one file each."""
