import jax
import jax.numpy as jnp
import numpy as np

from kd.checkpoints import huggingface
from kd.checkpoints import weights
from kd.models import families
from kd.models import model_cases
from kd.partitioning import mesh as meshes
from kd.partitioning import rules


def _shardings(mesh, model):
  return rules.param_shardings(
    mesh,
    model.logical_axes(),
    model.abstract_params(),
    'student',
  )


def test_each_device_holds_its_part_of_each_parameter(tmp_path):
  config = families.variant('tiny', 'variant')
  model = families.build(config, 'float32', 'none', 'student')
  drawn = model_cases.random_params(model.abstract_params())
  params = jax.tree.map(jnp.asarray, drawn)
  directory = str(tmp_path / 'model')
  huggingface.write(
    directory, params, config, 'float32', 2, [1], 0, lambda _: None
  )
  mesh = meshes.make(dict(data=1, fsdp=4, tensor=2), jax.devices())
  shardings = _shardings(mesh, model)
  found = weights.load(
    f'hf:{directory}', model, shardings, (), 'float32', 'student.init'
  )
  assert jax.tree.map(lambda x: x.sharding, found) == shardings
  gate = found['pattern']['layer_0']['mlp']['gate']
  assert gate.addressable_shards[0].data.size == gate.size // 8
  jax.tree.map(np.testing.assert_array_equal, found, params)

  half = families.build(
    config.keep_layers((1, 3, 5)), 'float32', 'none', 'student'
  )
  wanted = weights.load(
    f'hf:{directory}',
    half,
    _shardings(mesh, half),
    (1, 3, 5),
    'float32',
    'student.init',
  )
  taken = weights.layers_from(found, config, (1, 3, 5), _shardings(mesh, half))
  same = lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim)
  assert all(jax.tree.leaves(jax.tree.map(same, taken, wanted)))
  jax.tree.map(np.testing.assert_array_equal, taken, wanted)
