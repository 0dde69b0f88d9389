"""Builds and compiles the training step, and defines its TrainState."""

from collections.abc import Callable
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from kd.core import host_memory
from kd.core import schedules
from kd.core import types
from kd.losses import distributions
from kd.losses import importance
from kd.losses import layer_objective
from kd.losses import logits_objective
from kd.losses import modalities
from kd.losses import objective as objective_lib
from kd.losses import span_objective
from kd.losses import step_scalars
from kd.losses import teacher_sums
from kd.models import family
from kd.models import layer_stack
from kd.optimizers import averaging
from kd.optimizers import optimizers
from kd.optimizers import parameter_groups
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.quantization import running_ranges
from kd.train import micro_batches as micro_batches_lib

Array = types.Array

# By platform. Without it, the zeros to which layers' gradients are added are
# allocated before the objective and cannot reuse the memory of its arrays: 20 %
# of the memory needed.
_COMPILER_OPTIONS = {
  'cpu': {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}
}

# Folded into a step's key, for random numbers independent of the losses'.
_LAYER_DROPOUT, _ADAPTER_DROPOUT = 1, 2


@struct.dataclass
class TrainState:
  """The training state, which checkpoints save.

  Attributes:
    step: int32 [], number of updates applied or skipped so far.
    params: float32 parameters of the student.
    projections: additional trained parameters by loss term; they are not
      exported.
    layer_maps: int32 [n], the compared teacher layers, by loss term.
    opt_state: optimizer state for the trained part of params and projections.
    rng: key data; step k uses fold_in(rng, k).
    ema: moving average of the trained part of params, or None.
    modality_norms: float32 [2], see modalities.Modalities; None if the weights
      of modalities do not follow gradients.
  """

  step: Array
  params: types.PyTree
  projections: types.PyTree
  layer_maps: dict[str, Array]
  opt_state: Any
  rng: Array
  ema: types.PyTree = None
  modality_norms: Array | None = None

  @property
  def averaged_params(self) -> types.PyTree:
    """The student's parameters, with averages of the trained ones."""
    return parameter_groups.merge(self.ema, self.params)

  @property
  def all_params(self) -> tuple[types.PyTree, types.PyTree]:
    """All parameters, as the pair that an optimizer's groups split."""
    return self.params, self.projections


@struct.dataclass
class Output:
  """The metrics that an update returns.

  Attributes:
    sums: sum over target tokens of weight x loss by term, in nats; with routed
      teachers also by term and teacher.
    nonfinite: float32 [n], number of NaN or infinite values of each of n
      teachers at counted targets.
    totals: sum of the counted target weights, by the same names.
    weight: sum of target weights.
    loss: value of the objective.
    scalars: norms, the learning rate, and values of schedules.
    finite: whether every sum, every teacher and the gradient's norm were
      finite; the parameters change only if so.
    modality_sums: `sums` by modality, float32 [2]; {} without images.
    modality_totals: `totals` by modality, likewise.
  """

  sums: dict[str, Array]
  nonfinite: Array
  totals: dict[str, Array]
  weight: Array
  loss: Array
  scalars: dict[str, Array]
  finite: Array
  modality_sums: dict[str, Array] = struct.field(default_factory=dict)
  modality_totals: dict[str, Array] = struct.field(default_factory=dict)


Update = Callable[
  [TrainState, types.Batch, distributions.Targets | None],
  tuple[TrainState, Output],
]


def init_state(
  params: types.PyTree,
  objective: objective_lib.Objective,
  optimizer: optimizers.Optimizer,
  seed: int,
) -> TrainState:
  """Returns the state before the first update."""
  key = jax.random.key(seed)
  projections, layer_maps = layer_objective.init(objective.layer_terms, key)
  trained, _ = optimizer.groups.split((params, projections))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    projections=projections,
    layer_maps=layer_maps,
    opt_state=optimizer.init(trained),
    rng=jax.random.key_data(key),
    ema=averaging.init(trained[0]) if optimizer.ema_decay else None,
    modality_norms=objective.modalities.init(),
  )


def abstract_state(
  params: types.PyTree,
  objective: objective_lib.Objective,
  optimizer: optimizers.Optimizer,
  mesh: jax.sharding.Mesh,
) -> TrainState:
  """Returns the shapes and shardings of a state.

  Moments and factored moments are sharded like their parameters, moments
  possibly in the host's memory. Counters and projections are replicated.

  Args:
    params: jax.ShapeDtypeStructs with shardings.
    objective: the training objective.
    optimizer: the optimizer.
    mesh: mesh of the state.
  """
  state = jax.eval_shape(
    lambda p: init_state(p, objective, optimizer, 0), params
  )
  replicated = rules.replicated(mesh)

  def like(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  everywhere = jax.tree.map(lambda leaf: like(leaf, replicated), state)

  def like_param(leaf, param):
    if leaf is None:  # Another optimizer trains the parameter.
      return None
    if leaf.shape == param.shape:
      place = param.sharding.with_memory_kind(optimizer.memory_kind)
      return like(leaf, place)
    if leaf.ndim != param.ndim:
      return like(leaf, replicated)
    # A factored moment: axes that were averaged have size 1.
    spec = [*param.sharding.spec, *[None] * param.ndim][: param.ndim]
    sizes = zip(leaf.shape, param.shape, spec, strict=True)
    kept = [axis if size == whole else None for size, whole, axis in sizes]
    place = jax.sharding.PartitionSpec(*kept)
    return like(leaf, jax.sharding.NamedSharding(mesh, place))

  trained, _ = optimizer.groups.split((params, everywhere.projections))
  opt_state = optax.tree_map_params(
    optimizer.init,
    like_param,
    state.opt_state,
    trained,
    transform_non_params=lambda leaf: like(leaf, replicated),
    is_leaf=lambda leaf: leaf is None,
  )
  ema = trained[0] if optimizer.ema_decay else None
  return everywhere.replace(params=params, opt_state=opt_state, ema=ema)


def _loss(model, objective, layer_dropout):
  """Returns the function from parameters to the total and Sums."""

  def loss(trained, ranges, frozen, batch, targets, settings, layer_maps, key):
    trained, probe = trained
    frozen = parameter_groups.merge(ranges, frozen)
    params, projections = parameter_groups.merge(trained, frozen)
    weights = ()
    if layer_dropout:
      rows, layers = batch.tokens.shape[0], model.config.num_layers
      rng = jax.random.fold_in(key, _LAYER_DROPOUT)
      weights = (layer_stack.dropout_weights(layer_dropout, layers, rows, rng),)
    dropped = model.with_dropout(
      params, jax.random.fold_in(key, _ADAPTER_DROPOUT)
    )
    rows = objective.shared_images(batch, targets)
    hidden, shown = model.forward(
      dropped, rows, objective.student_taps, *weights
    )
    if probe is not None:
      images = modalities.with_images(batch)
      hidden = modalities.observed(hidden, images, probe)
    student = objective_lib.Student(
      hidden, model.unembedding(params), shown, projections, layer_maps
    )
    return objective(student, targets, batch, settings, key)

  return loss


def gradient(
  model: family.Model,
  objective: objective_lib.Objective,
  micro_batches: int,
  layer_dropout: float,
) -> Callable[..., Any]:
  """Returns the function that computes a batch's gradient and Sums.

  It is described in micro_batches.accumulate, and the arguments in `make`. Its
  first argument is the pair of the trained parameters and the probe of
  modalities.observed, or None.
  """
  loss = _loss(model, objective, layer_dropout)
  return micro_batches_lib.accumulate(loss, objective, micro_batches)


def make(
  model: family.Model,
  objective: objective_lib.Objective,
  optimizer: optimizers.Optimizer,
  rate: schedules.Schedule,
  micro_batches: int,
  layer_dropout: float = 0.0,
  range_decay: float = 0.0,
) -> Update:
  """Builds the update.

  Args:
    model: the student.
    objective: the training objective.
    optimizer: the optimizer.
    rate: the learning rate by update, for the metrics.
    micro_batches: number of micro-batches per batch.
    layer_dropout: value of student.layer_dropout.
    range_decay: value of student.quantize.range_decay.

  Returns:
    The update, to be jitted.
  """
  accumulate = gradient(model, objective, micro_batches, layer_dropout)

  def update(state, batch, targets):
    norms = state.modality_norms
    weights = objective.modalities.weights(state.step, norms)
    unweighted, batch = batch, modalities.weighted(batch, weights)
    probe = modalities.probe(batch, norms, model.config.embed_dim)
    settings = objective.settings(batch, state.step)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    trained, frozen = optimizer.groups.split(state.all_params)
    ranges, frozen = running_ranges.split(frozen)
    factors = optimizer.groups.factors(trained, state.step)
    (grads, d_probe), largest, sums = accumulate(
      *((trained, probe), ranges, frozen, batch, targets),
      *(settings, state.layer_maps, key),
    )
    new_norms = modalities.norms(d_probe, weights, unweighted, batch)
    grad_norm = parameter_groups.norm(grads, factors)
    # Must precede the update, which overwrites the donated parameters.
    param_norm = optax.tree.norm(trained[0])
    # Includes layers that do not train yet, whose moments are updated.
    finite = jnp.isfinite(optax.tree.norm(grads)) & jnp.isfinite(param_norm)
    for value in sums.losses.values():
      finite &= jnp.isfinite(value)
    finite &= jnp.all(sums.nonfinite == 0)
    for value in jax.tree.leaves(largest):
      finite &= jnp.all(jnp.isfinite(value))
    updates, opt_state = optimizer.update(
      grads, state.opt_state, trained, finite=finite, grad_norm=grad_norm
    )
    trained = parameter_groups.apply_updates(trained, updates, factors)
    ranges = running_ranges.update(ranges, largest, range_decay, finite)
    frozen = parameter_groups.merge(ranges, frozen)
    params, projections = parameter_groups.merge(trained, frozen)
    ema = None
    if optimizer.ema_decay:
      ema = averaging.update(
        state.ema, trained[0], optimizer.ema_decay, state.step + 1, finite
      )
    new_state = state.replace(
      step=state.step + 1,
      params=params,
      projections=projections,
      opt_state=opt_state,
      ema=ema,
      modality_norms=objective.modalities.averaged(norms, new_norms, finite),
    )
    scalars = {
      'grad_norm': grad_norm,
      **{
        f'grad_norm/{name}': norm
        for name, norm in parameter_groups.norms_by_module(
          grads, factors
        ).items()
      },
      'param_norm': param_norm,
      'lr': jnp.asarray(rate(state.step), jnp.float32),
      **optimizer.groups.scalars(state.step),
      **objective.scheduled(settings),
      **modalities.scalars(batch, weights, new_norms),
      **span_objective.scalars(batch),
      **importance.scalars(sums.importance),
      **teacher_sums.scalars(batch, objective.teachers),
      **{
        f'layer_map/{key}/{i}': layer
        for key, layers in state.layer_maps.items()
        for i, layer in enumerate(layers)
      },
    }
    scales = step_scalars.scales(settings)
    out = Output(
      sums=sums.losses
      | teacher_sums.named(sums.by_teacher, objective.teachers),
      nonfinite=sums.nonfinite,
      totals=settings.totals
      | teacher_sums.named(settings.teacher_totals, objective.teachers),
      modality_sums=sums.by_modality,
      modality_totals=settings.modality_totals,
      weight=jnp.sum(batch.weights),
      loss=logits_objective.scaled(sums.losses, scales),
      scalars=scalars,
      finite=finite,
    )
    return new_state, out

  return update


def jit(update: Update, mesh: jax.sharding.Mesh) -> Update:
  """Jits the update; the new state reuses the old one's buffers.

  Args:
    update: update from `make`.
    mesh: mesh of the state.
  """
  platform, _ = mesh_lib.platform(mesh)
  options = _COMPILER_OPTIONS.get(platform)
  return jax.jit(update, donate_argnums=0, compiler_options=options)


class CompiledOnce:
  """A jitted update, compiled once for the shapes of its first call."""

  def __init__(self, jitted: Update):
    self._jitted, self._program = jitted, None

  def __call__(self, *arguments) -> tuple[TrainState, Output]:
    if self._program is None and _has_int4(arguments):
      # Compiled programs compare layouts of int4 arrays incorrectly.
      self._program = self._jitted
    if self._program is None:
      host_memory.trim()
      self._program = self._jitted.lower(*arguments).compile()
      # Free the compiler's memory before the program allocates its own.
      host_memory.trim()
    return self._program(*arguments)


def _has_int4(arguments):
  return any(x.dtype == jnp.int4 for x in jax.tree.leaves(arguments))
