"""Registry, config validation, errors, types and run information."""
