"""The fields of the config, by section."""
