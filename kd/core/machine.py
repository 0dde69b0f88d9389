"""Which machine this process runs on."""

import socket


def name() -> str:
  """Names this machine since its last start; no other one has that name.

  Names of hosts are not enough: clones of a virtual machine share one.
  """
  try:
    with open('/proc/sys/kernel/random/boot_id', encoding='ascii') as f:
      return f.read().strip()
  except OSError:  # Linux alone has it.
    return socket.gethostname()
