"""Builds a run's programs, to be compiled from shapes alone.

They are the run's own: the teacher's pass of kd/teachers, the update of
kd/train and the decoding of kd/sampling, with abstract arguments sharded as the
run shards them.
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
from kd.models import layer_stack
from kd.models import tensors
from kd.partitioning import rules
from kd.planning import planned_run
from kd.sampling import device
from kd.sampling import picking
from kd.sampling import requests
from kd.teachers import live
from kd.train import load_params
from kd.train import resolved
from kd.train import update
from kd.train.feeds import abstract
from kd.train.feeds import feed

TEACHER, STEP, DECODE = 'teacher', 'step', 'decode'
_HOST = 'pinned_host'


@dataclasses.dataclass(frozen=True)
class Program:
  """A program before it is compiled.

  Attributes:
    name: TEACHER, TEACHER.1 and so on for others, STEP or DECODE.
    mesh: the devices that it runs on.
    function: the jitted function.
    arguments: abstract arrays with shardings.
    trips: the number of trips of loops whose count depends on data.
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
  """Returns bytes per chip of abstract arrays, without the padding of tiles.

  Args:
    tree: jax.ShapeDtypeStructs with shardings.
    of_host: count arrays in the host's memory, not in the chip's.
  """
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
    if (x.sharding.memory_kind == _HOST) == of_host
  )


def state(run: resolved.Run) -> update.TrainState:
  """Returns the student's training state."""
  return update.abstract_state(
    load_params.abstract(run.student), run.objective, run.optimizer, run.mesh
  )


def is_apart(run: resolved.Run) -> bool:
  """Returns whether the teachers have chips of their own."""
  return run.config.teacher.devices > 0


def are_copies(run: resolved.Run) -> list[bool]:
  """Returns, by teacher, whether its targets hold a copy of its unembedding."""
  size = run.student.config.vocab_size
  # Abstract meshes over different chips are equal.
  return [
    model.config.vocab_size > size or model.mesh != run.mesh or is_apart(run)
    for model in run.teacher_models
  ]


def targets(run: resolved.Run) -> distributions.Targets | None:
  """Returns the targets of a batch."""
  if not run.objective.needs_teacher:
    return None
  source = feed.source(run.config)
  return source.abstract_targets(run, planned_run.source_config)


def teacher_names(run: resolved.Run) -> list[str]:
  """Returns names of the programs in which teachers score a batch."""
  return [f'{TEACHER}.{i}' if i else TEACHER for i in range(len(run.teachers))]


def teachers(run: resolved.Run) -> list[Program]:
  """Returns the pass of each teacher over a batch."""
  found = []
  every = zip(
    teacher_names(run),
    run.teacher_models,
    abstract.teacher_params(run),
    strict=True,
  )
  for number, (name, model, params) in enumerate(every):
    spec = types.TapSpec((), ()) if number else run.objective.teacher_taps
    function = live.scorer(model.module, spec)
    params_name, _ = _argument_names(function)
    found.append(
      Program(
        name=name,
        mesh=model.mesh,
        function=function,
        arguments=(params, abstract.batch(run, model.mesh)),
        trips=1,
        kinds={params_name: 'teacher'},
      )
    )
  return found


def chunks(run: resolved.Run) -> int:
  """Returns the number of chunks of a chip's positions in a micro-batch."""
  config = run.config
  positions = config.data.batch_size * config.data.length
  positions //= rules.row_parts(run.mesh) * rules.length_parts(run.mesh)
  positions //= config.optimizer.micro_batches
  return -(-positions // config.objective.chunk_tokens)


def step(run: resolved.Run) -> Program:
  """Returns the update, as the training loop jits it."""
  config = run.config
  make = update.make(
    run.student.module,
    run.objective,
    run.optimizer,
    run.learning_rate,
    config.optimizer.micro_batches,
  )
  function = update.jit(make, run.mesh)
  state_name, _, targets_name = _argument_names(function)
  return Program(
    name=STEP,
    mesh=run.mesh,
    function=function,
    arguments=(state(run), abstract.batch(run, run.mesh), targets(run)),
    trips=chunks(run),
    kinds={
      f'{state_name}.params': 'parameters',
      f'{state_name}.paths': 'parameters',
      f'{state_name}.opt_state': 'optimizer',
      targets_name: 'teacher',
    },
  )


def decoded(config: ml_collections.FrozenConfigDict) -> tuple[int, int]:
  """Returns rows and new tokens of the larger program that decodes."""
  sampling = [config.evaluation, feed.source(config).sampling()]
  sizes = [(x.batch_size, x.max_new_tokens) for x in sampling if x is not None]
  return max(sizes, key=lambda s: s[0] * (config.plan.prompt_length + s[1]))


def decode(run: resolved.Run) -> Program:
  """Returns the program in which the student answers a batch of prompts."""
  config = run.config
  model = run.student.module
  (rows, limit), length = decoded(config), config.plan.prompt_length
  # The ids that stop an answer are the tokenizer's, and change no shape.
  greedy = requests.greedy(limit)
  limits = device.Limits(
    vocab_size=np.int32(model.config.vocab_size),
    stop_ids=np.asarray([1], np.int32),
    pad_id=np.int32(0),
  )

  def answer(params, weights, tokens, lengths, entries):
    cache = model.prefill(params, tokens, lengths)
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

  params = load_params.abstract(run.student)
  everywhere = rules.replicated(run.mesh)
  ints = abstract.array((rows,), jnp.int32, everywhere)
  function = jax.jit(answer)
  return Program(
    name=DECODE,
    mesh=run.mesh,
    function=function,
    arguments=(
      params,
      _decoding_weights(model, params),
      abstract.array((rows, length), jnp.int32, everywhere),
      ints,
      device.Entries(
        take=abstract.array((rows,), jnp.bool_, everywhere),
        source=ints,
        last=ints,
        position=ints,
        seed=abstract.array((rows, 2), jnp.uint32, everywhere),
        sample=ints,
        limit=ints,
      ),
    ),
    trips=limit,
    kinds=dict.fromkeys(_argument_names(function)[:2], 'parameters'),
  )


def _decoding_weights(model, params):
  """Returns the weights that decoding reads, sharded as the parameters are."""
  found = jax.eval_shape(lambda p: model.decoding_weights(p), params)

  def place(path, x):
    if len(path) == 1 or not hasattr(path[1], 'idx'):
      return abstract.array(x.shape, x.dtype, _at(params, path).sharding)
    keys, group = layer_stack.location(model.config, path[1].idx)
    like = _at(tensors.leaf(params, keys), path[2:])
    spec = like.sharding.spec if group is None else like.sharding.spec[1:]
    if x.ndim == 2:  # Transposed.
      spec = (*spec, None, None)[1::-1]
    place = jax.sharding.NamedSharding(
      like.sharding.mesh, jax.sharding.PartitionSpec(*spec)
    )
    return abstract.array(x.shape, x.dtype, place)

  return jax.tree_util.tree_map_with_path(place, found)


def _at(tree, path):
  for key in path:
    tree = tree[key.name if hasattr(key, 'name') else key.key]
  return tree


def of(run: resolved.Run) -> list[Program]:
  """Returns every program of a training run with evaluations."""
  scored = teachers(run) if run.objective.needs_teacher else []
  return [*scored, step(run), decode(run)]
