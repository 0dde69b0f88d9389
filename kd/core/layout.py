"""Names of folders of a workdir, and of a file, that several packages know."""

CHECKPOINTS = 'checkpoints'
DAMAGED_CHECKPOINTS = 'damaged-checkpoints'
EXPORT = 'export'
PRUNE = 'prune'
COMMIT = 'commit_success.txt'  # Orbax writes it last into a checkpoint.
