"""Data: splits, their checks, and the built-in kinds."""
