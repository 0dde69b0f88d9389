"""Names of folders and files of a workdir that several modules know."""

CHECKPOINTS = 'checkpoints'
DAMAGED_CHECKPOINTS = 'damaged-checkpoints'
EXPORT = 'export'
PRUNE = 'prune'
VERSIONS = 'versions'  # Of a registry.
COMMIT = 'commit_success.txt'  # Orbax writes it last into a checkpoint.
ASIDE = '.tmp'  # Ends the name of a file that is renamed once it is whole.
