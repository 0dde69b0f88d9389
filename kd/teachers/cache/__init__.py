"""A cache of teacher targets on disk: format, writer, reader and report."""
