"""The programs of a run, to be compiled from shapes alone.

They are the run's own: the teacher's pass of kd/teachers, the update of
kd/train and the decoding of kd/sampling, with the arguments that the run gives
them, each where it lies on the mesh.
"""

from collections.abc import Callable
import dataclasses
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kd.core import types
from kd.losses import taps
from kd.models import decoding
from kd.models import gemma3
from kd.partitioning import rules
from kd.planning import subject
from kd.sampling import device
from kd.sampling import picking
from kd.sampling import requests
from kd.teachers import live
from kd.teachers import methods
from kd.train import parameters
from kd.train import resolve
from kd.train import update

TEACHER, STEP, DECODE = 'teacher', 'step', 'decode'
_HOST = 'pinned_host'


@dataclasses.dataclass(frozen=True)
class Program:
  """A program before it is compiled.

  Attributes:
    name: TEACHER, TEACHER.1 and so on for others, STEP or DECODE.
    mesh: what it runs on.
    function: jitted.
    arguments: abstract.
    trips: how often a loop runs whose count depends on data.
    kinds: what the arguments hold, by prefixes of their names in the program.
  """

  name: str
  mesh: jax.sharding.Mesh
  function: Callable[..., Any]
  arguments: tuple[Any, ...]
  trips: int
  kinds: dict[str, str]


def _argument_names(function):
  """Returns a function's argument names: they begin names in the program."""
  return list(inspect.signature(function).parameters)


def local_bytes(tree: types.PyTree, of_host: bool = False) -> int:
  """Bytes a chip of a tree of abstract arrays, without the tiles' padding.

  Args:
    tree: jax.ShapeDtypeStructs with shardings.
    of_host: count what lies in the host's memory, not in the chip's.
  """
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
    if (x.sharding.memory_kind == _HOST) == of_host
  )


def teacher_params(run: resolve.Run) -> list[types.PyTree]:
  """The teachers' parameters, in the types that they are kept in."""
  return [
    jax.tree.map(
      lambda x, dtype=model.param_dtype: _array(x.shape, dtype, x.sharding),
      parameters.abstract(model),
    )
    for model, _ in run.teachers
  ]


def state(run: resolve.Run) -> update.TrainState:
  """The student's training state."""
  return update.abstract_state(
    parameters.abstract(run.student), run.objective, run.optimizer, run.mesh
  )


def unembeddings(run: resolve.Run) -> list[types.PyTree]:
  """The table of each teacher that its targets name, cut as `live` cuts it."""
  found, vocab_size = [], run.student.config.vocab_size
  for params in teacher_params(run):
    table = params['embedding']
    shape = min(table.shape[0], vocab_size), table.shape[1]
    place = live.unembedding_place(table, vocab_size, run.mesh)
    found.append(_array(shape, table.dtype, place))
  return found


def is_apart(run: resolve.Run) -> bool:
  """Whether the teachers have chips of their own."""
  return run.config.teacher.devices > 0


def are_copies(run: resolve.Run) -> list[bool]:
  """Of each teacher, whether its targets name a copy of its table."""
  size = run.student.config.vocab_size
  # On paper meshes over different chips are equal.
  return [
    model.config.vocab_size > size or model.mesh != run.mesh or is_apart(run)
    for model, _ in run.teachers
  ]


def batch(run: resolve.Run, mesh: jax.sharding.Mesh) -> types.Batch:
  """Rows, split over the student's mesh or the teachers'."""
  config = run.config.data
  split = rules.batch_sharding(mesh)
  shape = config.batch_size, config.length
  ints = _array(shape, jnp.int32, split)
  return types.Batch(
    tokens=ints,
    targets=ints,
    positions=ints,
    segment_ids=ints,
    parts=ints,
    weights=_array(shape, jnp.float32, split),
    row_id=_array(shape[:1], jnp.int32, split),
  )


def targets(run: resolve.Run) -> types.Targets | None:
  """What the teachers say of the batch."""
  if not run.objective.needs_teacher:
    return None
  if run.config.teacher.source == 'cached':
    return types.Targets(distribution=_cached(run), taps=None)
  config = run.config.data
  dense = []
  for (model, _), table in zip(run.teachers, unembeddings(run), strict=True):
    shape = config.batch_size, config.length, model.config.embed_dim
    place = rules.hidden_sharding(run.mesh)
    hidden = _array(shape, model.module.dtype, place)
    share = _array((), jnp.float32, rules.replicated(run.mesh))
    dense.append(types.Dense(hidden, table, share))
  return types.Targets(distribution=tuple(dense), taps=_taps(run))


def _cached(run):
  """Returns what cache.method keeps of a batch, as it is read with the rows."""
  config, size = run.config, run.student.config.vocab_size
  method = methods.METHODS.build(config.cache.method.to_dict(), 'cache.method')
  place = rules.batch_sharding(run.mesh)
  shape = config.data.batch_size, config.data.length
  if not method.entries:
    sizes = subject.source_config(config.teacher, 'teacher', None)
    rows = min(size, sizes.vocab_size)
    table = rules.table_sharding(run.mesh, rows)
    dense = types.Dense(
      _array((*shape, sizes.embed_dim), config.teacher.dtype, place),
      _array((rows, sizes.embed_dim), config.teacher.param_dtype, table),
      _array((), jnp.float32, rules.replicated(run.mesh)),
    )
    return (dense,)
  each = *shape, min(method.entries, size)
  ids = _array(each, jnp.int32, place)
  numbers = _array(each, jnp.float32, place)
  if method.draws:
    return types.Sampled(ids, numbers, numbers)
  return types.TopK(ids, numbers, _array(shape, jnp.float32, place))


def _taps(run):
  """The first teacher's: arrays of [n, B, ...]."""
  if _tap_spec(run) == gemma3.TapSpec((), ()):
    return types.Taps(None, None, None, None)
  (model, _), params = run.teachers[0], teacher_params(run)[0]
  score = live.scorer(model.module, _tap_spec(run))
  _, shown = jax.eval_shape(score, params, batch(run, model.mesh))
  place = rules.taps_sharding(run.mesh)
  return jax.tree.map(lambda x: _array(x.shape, x.dtype, place), shown)


def _tap_spec(run):
  _, spec = taps.specs(run.objective.taps_terms)
  return gemma3.TapSpec(*spec)


def _array(shape, dtype, sharding):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def teacher_names(run: resolve.Run) -> list[str]:
  """Of the programs in which teachers score a batch."""
  return [f'{TEACHER}.{i}' if i else TEACHER for i in range(len(run.teachers))]


def teachers(run: resolve.Run) -> list[Program]:
  """The pass of each teacher over a batch."""
  found = []
  every = zip(
    teacher_names(run), run.teachers, teacher_params(run), strict=True
  )
  for number, (name, (model, _), params) in enumerate(every):
    spec = gemma3.TapSpec((), ()) if number else _tap_spec(run)
    function = live.scorer(model.module, spec)
    params_name, _ = _argument_names(function)
    found.append(
      Program(
        name=name,
        mesh=model.mesh,
        function=function,
        arguments=(params, batch(run, model.mesh)),
        trips=1,
        kinds={params_name: 'teacher'},
      )
    )
  return found


def chunks(run: resolve.Run) -> int:
  """Into how many chunks a chip's positions of a micro-batch are cut."""
  config = run.config
  positions = config.data.batch_size * config.data.length
  positions //= rules.row_parts(run.mesh) * rules.length_parts(run.mesh)
  positions //= config.optimizer.micro_batches
  return -(-positions // config.objective.chunk_tokens)


def step(run: resolve.Run) -> Program:
  """An update, as the training loop jits it."""
  config = run.config
  make = update.make(
    run.student.module,
    run.objective,
    run.optimizer,
    run.rate,
    config.optimizer.micro_batches,
  )
  function = update.jit(make, run.mesh)
  state_name, _, targets_name = _argument_names(function)
  return Program(
    name=STEP,
    mesh=run.mesh,
    function=function,
    arguments=(state(run), batch(run, run.mesh), targets(run)),
    trips=chunks(run),
    kinds={
      f'{state_name}.params': 'parameters',
      f'{state_name}.paths': 'parameters',
      f'{state_name}.opt_state': 'optimizer',
      targets_name: 'teacher',
    },
  )


def decoded(config: ml_collections.FrozenConfigDict) -> tuple[int, int]:
  """Rows and new tokens of what decodes in a run: the larger, if two do."""
  found = [config.evaluation]
  if config.teacher.source == 'rollout':
    found.append(config.rollout)
  sizes = [(part.batch_size, part.max_new_tokens) for part in found]
  return max(sizes, key=lambda s: s[0] * (config.plan.prompt_length + s[1]))


def decode(run: resolve.Run) -> Program:
  """Answers to a batch of prompts, by the student."""
  config = run.config
  model = run.student.module
  (rows, limit), length = decoded(config), config.plan.prompt_length
  # What stops an answer is the tokenizer's to say, and changes no shape.
  greedy = requests.greedy(limit)
  limits = device.Limits(
    vocab_size=np.int32(model.config.vocab_size),
    stop_ids=np.asarray([1], np.int32),
    pad_id=np.int32(0),
  )

  def answer(params, weights, tokens, lengths, entries):
    cache = decoding.prefill(model, params, tokens, lengths)
    state = device.empty(model, rows, length + limit, repeats=False)
    state = device.insert(state, cache, tokens, entries)
    _, ids, logprobs = device.steps(
      *(model, picking.rule(greedy, model.config.vocab_size), weights, state),
      *(picking.numbers(greedy), limits, entries.take, limit),
    )
    return ids, logprobs

  params = parameters.abstract(run.student)
  everywhere = rules.replicated(run.mesh)
  ints = _array((rows,), jnp.int32, everywhere)
  function = jax.jit(answer)
  return Program(
    name=DECODE,
    mesh=run.mesh,
    function=function,
    arguments=(
      params,
      _decoding_weights(model, params),
      _array((rows, length), jnp.int32, everywhere),
      ints,
      device.Entries(
        take=_array((rows,), jnp.bool_, everywhere),
        source=ints,
        last=ints,
        position=ints,
        seed=_array((rows, 2), jnp.uint32, everywhere),
        sample=ints,
        limit=ints,
      ),
    ),
    trips=limit,
    kinds=dict.fromkeys(_argument_names(function)[:2], 'parameters'),
  )


def _decoding_weights(model, params):
  """What decoding reads of parameters, each where the parameter lies."""
  found = jax.eval_shape(lambda p: decoding.weights(model, p), params)

  def place(path, x):
    if len(path) == 1 or not hasattr(path[1], 'idx'):
      return _array(x.shape, x.dtype, _at(params, path).sharding)
    group, number = divmod(path[1].idx, model.config.scan_period)
    stacked = group < model.config.scan_groups
    key = 'pattern' if stacked else 'remainder'
    like = _at(params[key][f'layer_{number}'], path[2:])
    spec = like.sharding.spec[1:] if stacked else like.sharding.spec
    if x.ndim == 2:  # Turned.
      spec = (*spec, None, None)[1::-1]
    place = jax.sharding.NamedSharding(
      like.sharding.mesh, jax.sharding.PartitionSpec(*spec)
    )
    return _array(x.shape, x.dtype, place)

  return jax.tree_util.tree_map_with_path(place, found)


def _at(tree, path):
  for key in path:
    tree = tree[key.name if hasattr(key, 'name') else key.key]
  return tree


def of(run: resolve.Run) -> list[Program]:
  """Every program of a training run with evaluations."""
  scored = teachers(run) if run.objective.needs_teacher else []
  return [*scored, step(run), decode(run)]
