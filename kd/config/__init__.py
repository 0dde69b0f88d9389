"""The config: fields with defaults and legal values, rules and flags."""
