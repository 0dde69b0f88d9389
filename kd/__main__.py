"""Starts the program: python -m kd --config=FILE --workdir=DIR.

On Linux the process starts anew first, with large pages for its arrays: that
must come before imports, which take seconds.
"""

from kd.core import host_memory

if __name__ == '__main__':
  host_memory.use_large_pages()

  from absl import flags

  from kd import main

  # --help shows the text and the flags of the module that was started.
  __doc__ = main.__doc__
  flags.adopt_module_key_flags(main)
  main.run()
