"""Tests that sums over rows do not depend on the mesh, except for rounding."""

import jax
import numpy as np

from kd.partitioning import mesh as mesh_lib
from kd.pruning import calibration
from kd.pruning import pruning_cases


def test_sums_do_not_depend_on_the_mesh(tmp_path):
  """With rows, heads and lengths split."""

  def sums(sizes, count):
    mesh = mesh_lib.make(sizes, jax.devices()[:count])
    return calibration.run(pruning_cases.job(mesh, str(tmp_path)))

  alone = sums({}, 1)
  split = sums(dict(fsdp=2, tensor=2, sequence=2), 8)
  for name, value in alone.items():
    np.testing.assert_allclose(split[name], value, rtol=1e-5, err_msg=name)
