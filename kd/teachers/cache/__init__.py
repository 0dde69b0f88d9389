"""A cache of teacher targets on disk: its format, writer, reader and report."""
