"""Builds the programs of a run with abstract arguments, to compile them.

These are the functions that training runs: the teacher's pass of kd/teachers,
the update of kd/train and the decoding of kd/sampling. Their arguments are
abstract arrays, sharded as in the run.
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
from kd.losses import distributions
from kd.models import computed
from kd.models import layer_stack
from kd.models import tensors
from kd.partitioning import rules
from kd.planning import planned_run
from kd.run import load_params
from kd.run import own_tokenizer
from kd.run import resolved
from kd.run import saved_params
from kd.run import source as source_lib
from kd.sampling import device
from kd.sampling import picking
from kd.sampling import requests
from kd.teachers import live
from kd.train import update
from kd.train.feeds import abstract

TEACHER, STEP, DECODE = 'teacher', 'step', 'decode'
_HOST = 'pinned_host'


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function and the abstract arguments to compile it with.

  Attributes:
    name: TEACHER (more teachers: TEACHER.1, ...), STEP or DECODE.
    mesh: its devices.
    function: the jitted function.
    arguments: abstract arrays with shardings.
    trips: trip count to assume for loops whose count depends on data.
    kinds: kind of memory (see buffers.KINDS) by prefix of an argument's name.
  """

  name: str
  mesh: jax.sharding.Mesh
  function: Callable[..., Any]
  arguments: tuple[Any, ...]
  trips: int
  kinds: dict[str, str]


def _argument_names(function):
  """Returns argument names; names of arrays in the program start with them."""
  return list(inspect.signature(function).parameters)


def local_bytes(tree: types.PyTree, in_host: bool = False) -> int:
  """Returns bytes per chip of abstract arrays, not counting tile padding.

  Args:
    tree: jax.ShapeDtypeStructs with shardings.
    in_host: whether to count arrays in host memory instead of HBM.
  """
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * _bits(x.dtype) // 8
    for x in jax.tree.leaves(tree)
    if (x.sharding.memory_kind == _HOST) == in_host
  )


def _bits(dtype):
  """Returns the bits of a value on an accelerator; numpy's int4 has a byte."""
  return 4 if dtype == jnp.int4 else 8 * dtype.itemsize


def state(run: resolved.Run) -> update.TrainState:
  """Returns the abstract training state of the student."""
  return update.abstract_state(
    saved_params.abstract(run.student), run.objective, run.optimizer, run.mesh
  )


def has_teacher_devices(run: resolved.Run) -> bool:
  """Returns whether chips are reserved for the teachers."""
  return run.config.teacher.devices > 0


def copies_unembedding(run: resolved.Run) -> list[bool]:
  """Returns whether the targets copy the unembedding, for each teacher."""
  size = run.student.config.vocab_size
  if own_tokenizer.compares_positions(run):
    size = run.teacher.config.vocab_size
  if own_tokenizer.compares_spans(run):
    return []  # The targets are only likelihoods.
  # Abstract meshes over different chips are equal.
  return [
    model.config.vocab_size > size
    or model.mesh != run.mesh
    or has_teacher_devices(run)
    for model in run.teacher_models
  ]


def targets(run: resolved.Run) -> distributions.Targets | None:
  """Returns the abstract targets of a batch, or None without a teacher."""
  if not run.objective.needs_teacher:
    return None
  source = source_lib.of(run.config)
  return source.abstract_targets(run, planned_run.source_config)


def teacher_names(run: resolved.Run) -> list[str]:
  """Returns the names of the programs in which teachers score a batch."""
  return [f'{TEACHER}.{i}' if i else TEACHER for i in range(len(run.teachers))]


def teachers(run: resolved.Run) -> list[Program]:
  """Returns the program of each teacher: a forward pass over a batch."""
  result = []
  every = zip(
    teacher_names(run),
    run.teacher_models,
    abstract.teacher_params(run),
    strict=True,
  )
  for index, (name, model, params) in enumerate(every):
    spec = types.TapSpec((), ()) if index else run.objective.teacher_taps
    function = live.scorer(model.module, spec)
    if own_tokenizer.compares_spans(run):
      size = run.config.objective.chunk_tokens
      function = live.span_scorer(model.module, size)
    params_name, *_ = _argument_names(function)
    result.append(
      Program(
        name=name,
        mesh=model.mesh,
        function=function,
        arguments=(params, abstract.batch(run, model.mesh)),
        trips=1,
        kinds={params_name: 'teacher'},
      )
    )
  return result


def num_chunks(run: resolved.Run) -> int:
  """Returns the number of chunks of a micro-batch on one chip."""
  config = run.config
  positions = config.data.batch_size * config.data.length
  positions //= rules.row_shards(run.mesh) * rules.length_shards(run.mesh)
  positions //= config.optimizer.micro_batches
  return -(-positions // config.objective.chunk_tokens)


def step(run: resolved.Run) -> Program:
  """Returns the update program, jitted as in the training loop."""
  config = run.config
  update_fn = update.make(
    run.student.module,
    run.objective,
    run.optimizer,
    run.learning_rate,
    config.optimizer.micro_batches,
    config.student.layer_dropout,
    config.student.quantize.range_decay,
  )
  function = update.jit(update_fn, run.mesh)
  state_name, _, targets_name = _argument_names(function)
  return Program(
    name=STEP,
    mesh=run.mesh,
    function=function,
    arguments=(state(run), abstract.batch(run, run.mesh), targets(run)),
    trips=num_chunks(run),
    kinds={
      f'{state_name}.params': 'parameters',
      f'{state_name}.projections': 'parameters',
      f'{state_name}.opt_state': 'optimizer',
      f'{state_name}.ema': 'optimizer',
      targets_name: 'teacher',
    },
  )


def decode_size(config: ml_collections.FrozenConfigDict) -> tuple[int, int]:
  """Returns rows and new tokens per row of the largest decoding batch."""
  sampling = [config.evaluation]
  if not config.rollout.devices:
    sampling.append(source_lib.of(config).sampling())
  sizes = [(x.batch_size, x.max_new_tokens) for x in sampling if x is not None]
  return max(sizes, key=lambda s: s[0] * (config.plan.prompt_length + s[1]))


def decode(run: resolved.Run) -> Program:
  """Returns the program in which the student answers a batch of prompts."""
  config = run.config
  model = run.student.module
  (rows, limit), length = decode_size(config), config.plan.prompt_length
  # The stop ids come from the tokenizer; their values do not change shapes.
  greedy = requests.greedy(limit)
  limits = device.Limits(
    vocab_size=np.int32(model.config.vocab_size),
    stop_ids=np.asarray([1], np.int32),
    pad_id=np.int32(0),
  )

  def answer(params, weights, tokens, lengths, entries):
    _, cache = model.prefill(params, tokens, lengths)
    state = device.empty(model, rows, length + limit, repeats=False)
    state = device.insert(state, cache, tokens, entries)
    _, ids, logprobs = device.steps(
      *(
        model,
        picking.options(greedy, model.config.vocab_size),
        weights,
        state,
      ),
      *(picking.parameters(greedy), limits, entries.take, limit),
    )
    return ids, logprobs

  params = saved_params.abstract(run.student)
  replicated = rules.replicated(run.mesh)
  ints = abstract.array((rows,), jnp.int32, replicated)
  function = jax.jit(answer)
  return Program(
    name=DECODE,
    mesh=run.mesh,
    function=function,
    arguments=(
      params,
      decoding_weights(run.student),
      abstract.array((rows, length), jnp.int32, replicated),
      ints,
      device.Entries(
        take=abstract.array((rows,), jnp.bool_, replicated),
        source=ints,
        last=ints,
        position=ints,
        seed=abstract.array((rows, 2), jnp.uint32, replicated),
        sample=ints,
        limit=ints,
      ),
    ),
    trips=limit,
    kinds=dict.fromkeys(_argument_names(function)[:2], 'parameters'),
  )


def decoding_weights(student: resolved.Model) -> types.PyTree:
  """Returns abstract decoding weights, sharded like the parameters."""
  params = saved_params.abstract(student)
  config, shardings = student.config, load_params.core_of(student).shardings
  with rules.active(student.mesh):
    shapes = jax.eval_shape(student.module.decoding_weights, params)

  def of_layer(path, x):
    keys, group = layer_stack.location(config, path[1].idx)
    like = _at(tensors.leaf(shardings, keys), path[2:])
    spec = like.spec if group is None else like.spec[1:]
    if isinstance(x, computed.Operand):
      first = len(spec) - len(x.outputs)  # of the outputs
      return _operand(x, like.mesh, spec[first], spec[0])
    sharding = jax.sharding.PartitionSpec(*spec)
    sharding = jax.sharding.NamedSharding(like.mesh, sharding)
    return abstract.array(x.shape, x.dtype, sharding)

  def place(path, x):
    if len(path) > 1 and hasattr(path[1], 'idx'):
      return of_layer(path, x)
    like = _at(shardings, path)
    if isinstance(x, computed.Operand):
      return _operand(x, like.mesh, *like.spec)
    return abstract.array(x.shape, x.dtype, like)

  return jax.tree_util.tree_map_with_path(
    place, shapes, is_leaf=lambda x: isinstance(x, computed.Operand)
  )


def _operand(operand, mesh, outputs, inputs):
  """Places the arrays of an Operand, [O, I] before others [O, *]."""
  arrays, structure = jax.tree.flatten(operand)
  specs = [(outputs, inputs)] + [(outputs,)] * (len(arrays) - 1)
  return structure.unflatten(
    abstract.array(
      x.shape,
      x.dtype,
      jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)),
    )
    for x, spec in zip(arrays, specs, strict=True)
  )


def _at(tree, path):
  for key in path:
    tree = tree[key.name if hasattr(key, 'name') else key.key]
  return tree


def all_programs(run: resolved.Run) -> list[Program]:
  """Returns all programs of a training run, including evaluation."""
  teachers_ = teachers(run) if run.objective.needs_teacher else []
  return [*teachers_, step(run), decode(run)]
