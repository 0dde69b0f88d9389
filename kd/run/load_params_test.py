"""Parameters from a run's checkpoints, for modes and for other runs."""

import dataclasses
import os
import re

import jax
import numpy as np
import pytest

from kd.checkpoints import manager
from kd.core import errors
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from kd.partitioning import mesh as mesh_lib
from kd.run import load_params
from kd.run import resolved
from kd.run import saved_params

_CONFIG = gemma3_config.Gemma3Config(
  embed_dim=8,
  mlp_dim=8,
  num_heads=1,
  num_kv_heads=1,
  head_dim=8,
  vocab_size=16,
  layer_kinds=gemma3_config.periodic_kinds(3, 2),
  window=4,
  context=16,
  query_scale=8.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)


def _model(init):
  module = families.build(_CONFIG, 'float32', 'none', 'student')
  mesh = mesh_lib.make({}, jax.devices()[:1])
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  shapes = module.abstract_params()
  return resolved.Model(
    module=module,
    init=init,
    source=_CONFIG,
    keep_layers=(),
    shardings=jax.tree.map(lambda _: everywhere, shapes),
    param_dtype='float32',
  )


def test_nonfinite_checkpoints_are_refused_by_name(tmp_path):
  """Both for --workdir and for `workdir:` in a config."""
  model = _model(f'workdir:{tmp_path}')
  params = jax.tree.map(
    lambda s: np.ones(s.shape, s.dtype), saved_params.abstract(model)
  )
  saving = manager.Manager(str(tmp_path), keep=2)

  def save(step, params):
    items = {'params': params, 'optimizer': {'count': np.zeros(())}}
    saving.save(step, items, {}, None)
    saving.wait(step)

  save(1, params)
  back = load_params.load(model, 0, 'teacher.init', None)
  jax.tree.map(np.testing.assert_array_equal, back, params)
  with pytest.raises(errors.ConfigError, match='export.params.*no average'):
    saved_params.restore(str(tmp_path), model, 'last', '--workdir', True)
  params['pattern']['layer_1']['mlp']['up'][0, 0, :3] = np.nan
  params['final_norm']['scale'][0] = np.inf
  save(2, params)
  checkpoint = re.escape(os.path.join(tmp_path, manager.FOLDER, '2'))
  message = (
    f'checkpoint {checkpoint}: 1 of 8 values of final_norm/scale, '
    '3 of 64 values of pattern/layer_1/mlp/up are not finite'
  )
  with pytest.raises(errors.ConfigError, match=f'--workdir: {message}'):
    saved_params.restore(str(tmp_path), model, 'last', '--workdir')
  for keep in ((), (0,)):
    shorter = dataclasses.replace(model, keep_layers=keep)
    with pytest.raises(errors.ConfigError, match=f'teacher.init: {message}'):
      load_params.load(shorter, 0, 'teacher.init', None)
