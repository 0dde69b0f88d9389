"""GSM8K as a tensorflow-datasets builder."""
