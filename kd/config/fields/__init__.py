"""The tables of fields, by section of the config."""
