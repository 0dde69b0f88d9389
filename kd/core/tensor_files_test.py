import os
import stat

import numpy as np
import safetensors.numpy

from kd.core import tensor_files


def test_file_permissions_follow_the_umask(tmp_path):
  path = str(tmp_path / 'some.safetensors')
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  for umask, wanted in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
    before = os.umask(umask)
    try:
      if os.path.exists(path):
        os.remove(path)
      tensor_files.save(path, {'a': array}, {'format': 'pt'})
    finally:
      os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == wanted
  np.testing.assert_array_equal(safetensors.numpy.load_file(path)['a'], array)
