"""Training state in Orbax; weights from and to other projects' files."""
