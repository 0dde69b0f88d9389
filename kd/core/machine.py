"""Identifies the machine that this process runs on."""

import socket


def name() -> str:
  """Returns a unique name of this machine, which changes when it reboots.

  Host names are not unique: clones of a virtual machine share one.
  """
  try:
    with open('/proc/sys/kernel/random/boot_id', encoding='ascii') as f:
      return f.read().strip()
  except OSError:  # Not on Linux.
    return socket.gethostname()
