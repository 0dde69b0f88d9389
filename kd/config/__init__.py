"""The config: fields with defaults and legal values, rules, command line."""
