"""Compiles Tunix's distillation step for a TPU without needing one.

The argument is a JSON object:
  topology: name of the topology, such as 'v5e:2x4'; the batch has a row per
    chip.
  student, teacher: names of models, such as '1b'.
  length: number of positions in a row.
  programs: any of 'teacher' (its logits) and 'step' (the student's step).

Prints one JSON object by program: bytes per chip by kind, or the error of a
program that does not fit. Parameters and AdamW's moments are bfloat16 and
sharded over the chips, logits by row; blocks are rematerialized.
"""

import json
import sys

from benchmarks import stepper


def main(argument):
  stream = stepper.claim_stdout()
  import jax
  from jax.experimental import topologies

  spec = json.loads(argument)
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=spec['topology']
  )
  rows = len(topology.devices)
  mesh = topologies.make_mesh(topology, (rows, 1), ('fsdp', 'tp'))
  found = {}
  for name in spec['programs']:
    function, arguments = PROGRAMS[name](spec, mesh, rows)
    try:
      with jax.set_mesh(mesh):
        compiled = function.lower(*arguments).compile()
      found[name] = {'bytes': _bytes(compiled)}
    except jax.errors.JaxRuntimeError as e:
      found[name] = {'error': str(e).strip().splitlines()[0]}
  print(json.dumps(found), file=stream, flush=True)


def _bytes(compiled):
  m = compiled.memory_analysis()
  sizes = {
    'arguments': m.argument_size_in_bytes,
    'temporaries': m.temp_size_in_bytes,
    'outputs': m.output_size_in_bytes,
    'aliased': m.alias_size_in_bytes,
  }
  return sizes | {'peak': sum(sizes.values()) - 2 * sizes['aliased']}


def _config(name):
  import dataclasses

  from tunix.models.gemma3 import model as gemma3

  make = getattr(gemma3.ModelConfig, f'gemma3_{name}', None)
  make = make or getattr(gemma3.ModelConfig, f'gemma3_{name}_pt')
  return dataclasses.replace(
    make(), vision_config=None, remat_config=gemma3.RematConfig.BLOCK
  )


def _model(name, mesh):
  """Returns the module's definition and its parameters' sharded shapes."""
  from flax import nnx
  import jax
  from jax.sharding import NamedSharding
  from jax.sharding import PartitionSpec
  from tunix.models.gemma3 import model as gemma3

  with jax.set_mesh(mesh):
    module = nnx.eval_shape(
      lambda: gemma3.Gemma3(_config(name), rngs=nnx.Rngs(0))
    )
  definition, state = nnx.split(module)

  def place(leaf, spec):
    spec = spec if isinstance(spec, PartitionSpec) else PartitionSpec()
    sharding = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return definition, jax.tree.map(place, state, nnx.get_partition_spec(state))


def _logits(model, input_tokens, input_mask):
  import jax.numpy as jnp

  length = input_tokens.shape[1]
  positions = jnp.broadcast_to(jnp.arange(length), input_tokens.shape)
  seen = jnp.tril(jnp.ones((length, length), bool)) & input_mask[:, None]
  return model(input_tokens, positions, None, seen)[0]


def _rows(mesh, shape, dtype):
  import jax

  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec('fsdp')
  )
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _teacher(spec, mesh, rows):
  from flax import nnx
  import jax
  import jax.numpy as jnp

  definition, state = _model(spec['teacher'], mesh)

  def score(state, tokens, mask):
    return _logits(nnx.merge(definition, state), tokens, mask)

  shape = rows, spec['length']
  tokens, mask = (_rows(mesh, shape, t) for t in (jnp.int32, jnp.bool_))
  split = tokens.sharding
  return jax.jit(score, out_shardings=split), (state, tokens, mask)


def _step(spec, mesh, rows):
  from flax import nnx
  import jax
  import jax.numpy as jnp
  import optax
  from tunix.distillation.strategies import logit

  definition, state = _model(spec['student'], mesh)
  vocab_size = _config(spec['student']).num_embed
  optimizer = optax.adamw(1e-4)
  strategy = logit.LogitStrategy(
    _logits,
    _logits,
    lambda input_tokens, input_mask: jax.nn.one_hot(
      jnp.roll(input_tokens, -1, axis=1), vocab_size
    ),
  )

  def step(state, moments, tokens, mask, wanted):
    def loss(state):
      inputs = {'input_tokens': tokens, 'input_mask': mask}
      return strategy.get_train_loss(
        nnx.merge(definition, state), wanted, inputs
      )

    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(state)
    changes, moments = optimizer.update(gradient, moments, state)
    return optax.apply_updates(state, changes), moments, value

  nowhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  moments = optax.tree_map_params(
    optimizer,
    lambda _, param: param,
    jax.eval_shape(optimizer.init, state),
    state,
    transform_non_params=lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=nowhere
    ),
  )
  shape = rows, spec['length']
  tokens, mask = (_rows(mesh, shape, t) for t in (jnp.int32, jnp.bool_))
  wanted = _rows(mesh, (*shape, vocab_size), jnp.bfloat16)
  function = jax.jit(step, donate_argnums=(0, 1))
  return function, (state, moments, tokens, mask, wanted)


PROGRAMS = {'teacher': _teacher, 'step': _step}

if __name__ == '__main__':
  main(sys.argv[1])
