"""Registry, errors, types, files and run information."""
