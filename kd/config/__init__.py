"""The fields of a config: defaults, legal values, meaning, command line."""
