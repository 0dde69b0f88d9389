"""kd distils large language models into small ones."""

import os
import re

# C++ logging that TensorFlow shares with other libraries reads this once, when
# the first of them is loaded: only here is early enough.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# XLA gives a CPU's devices one pool of as many threads as there are cores or
# devices. A collective that waits holds its thread, so with several in flight
# the last device of one may find no thread, and XLA aborts the process.
_devices = re.search(
  r'--xla_force_host_platform_device_count=(\d+)',
  os.environ.get('XLA_FLAGS', ''),
)
if _devices:
  os.environ.setdefault('PJRT_NPROC', str(8 * int(_devices[1])))
