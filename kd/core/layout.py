"""Names of a workdir's folders and files that several modules use."""

CHECKPOINTS = 'checkpoints'
DAMAGED_CHECKPOINTS = 'damaged-checkpoints'
EXPORT = 'export'
PRUNE = 'prune'
VERSIONS = 'versions'  # In a registry.
COMMIT = 'commit_success.txt'  # The last file that Orbax writes.
ASIDE = '.tmp'  # Suffix of a file that is renamed once it is complete.
