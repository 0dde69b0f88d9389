"""Finds the origin of the nonfinite values that ended a run.

Checks the rows, the parameters, the outputs of layers and the gradients, in
this order, since each is computed from the previous ones. The step's rows are
read again. Its parameters are those at the end of the run, which are at most
one update newer.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import os

import jax
import jax.numpy as jnp

from kd.core import atomic_files
from kd.core import errors
from kd.core import types
from kd.losses import modalities
from kd.models import family
from kd.models import layer_stack
from kd.partitioning import rules
from kd.quantization import running_ranges
from kd.run import source
from kd.train import micro_batches
from kd.train import train_job
from kd.train import update

FILE = 'nonfinite.json'


@dataclasses.dataclass(frozen=True)
class Origin:
  """The nonfinite values; the first nonempty field is the origin.

  Attributes:
    step: the step at fault, counted from 1; None if there is none, as in an
      evaluation.
    rows: number of rows with nonfinite weights.
    parameters: paths of parameters whose sum of squares is not finite.
    layers: layers with nonfinite outputs, from the bottom.
    gradients: paths of parameters with nonfinite gradients.
  """

  step: int | None
  rows: int = 0
  parameters: tuple[str, ...] = ()
  layers: tuple[int, ...] = ()
  gradients: tuple[str, ...] = ()

  @property
  def text(self) -> str:
    """A line on the origin."""
    if self.rows:
      return f'not finite: the weights of {self.rows} rows of step {self.step}'
    if self.parameters:
      return f'not finite: the parameters {errors.first_of(self.parameters)}'
    if self.layers:
      return (
        f'not finite: the output of layer {self.layers[0]}, the first of '
        f'{len(self.layers)} layers, at step {self.step}'
      )
    if self.gradients:
      return (
        f'not finite: the gradients of {errors.first_of(self.gradients)} at '
        f'step {self.step}'
      )
    return 'not finite: the origin could not be reproduced after the run'


def find(
  job: train_job.TrainJob, state: update.TrainState, step: int | None
) -> Origin:
  """Returns the origin of nonfinite values.

  Args:
    job: the job that has ended.
    state: its last state.
    step: the step at fault, counted from 1; None if there is none.
  """
  model = job.run.student.module
  parameters = _paths(model, state.params)
  config = job.run.config
  # The student's samples of a step cannot be reproduced.
  if step is None or source.of(config).sampling() is not None:
    return Origin(step, parameters=parameters)
  with rules.active(job.run.mesh):
    read = job.feed.read(step - 1)
    fed = job.feed(step - 1, state.params, read)
    bad = ~jnp.isfinite(fed.batch.weights).all(axis=-1)
    origin = Origin(step, int(bad.sum()), parameters)
    if not origin.rows and not origin.parameters:
      parts = config.optimizer.micro_batches
      layers = bad_layers(model, state.params, fed.batch, parts)
      origin = dataclasses.replace(origin, layers=layers)
    if not origin.rows and not origin.parameters and not origin.layers:
      gradients = _gradients(job, state, fed, step)
      origin = dataclasses.replace(origin, gradients=gradients)
  return origin


def remove(workdir: str) -> None:
  """Removes the origin that an earlier run of the workdir has written."""
  with contextlib.suppress(OSError):
    os.unlink(os.path.join(workdir, FILE))


def write(workdir: str, origin: Origin) -> None:
  """Writes the origin to a workdir."""
  path = os.path.join(workdir, FILE)
  atomic_files.write_json(path, dataclasses.asdict(origin))


def _paths(model, tree: types.PyTree) -> tuple[str, ...]:
  """Returns the paths of arrays whose sum of squares is not finite."""
  leaves = [
    (path, x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
    if jnp.issubdtype(x.dtype, jnp.floating)
  ]

  @jax.jit
  def finite(arrays):
    return [
      jnp.isfinite(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=axes))
      for x, axes in zip(arrays, summed, strict=True)
    ]

  # Separately for each layer of a stack.
  summed = [
    tuple(range(int(layer_stack.is_stacked(path)), x.ndim))
    for path, x in leaves
  ]
  bad: list[str] = []
  values = jax.device_get(finite([x for _, x in leaves]))
  for (path, _), value in zip(leaves, values, strict=True):
    names = layer_stack.paths(model.config, path)
    bad += [
      name
      for name, is_finite in zip(names, value.reshape(-1), strict=True)
      if not is_finite
    ]
  return tuple(sorted(bad, key=_depth))


def _depth(path: str) -> tuple[Sequence[int], str]:
  """Returns a sort key: paths outside of layers first, then by layer."""
  root, *rest = path.split('.')
  return ([int(rest[0])] if root == 'layers' else [-1], path)


def bad_layers(
  model: family.Model,
  params: types.PyTree,
  batch: types.Batch,
  parts: int = 1,
) -> tuple[int, ...]:
  """Returns the layers with nonfinite outputs.

  Args:
    model: the student.
    params: its parameters.
    batch: the rows.
    parts: number of micro-batches.
  """
  every = types.TapSpec(tuple(range(model.config.num_layers)), ())

  @jax.jit
  def finite(params, batch):
    def of_part(rows):
      _, taps = model.forward(params, rows, every)
      return jnp.isfinite(taps.hidden).all(axis=(1, 2, 3))

    return jax.lax.map(of_part, micro_batches.split_rows(batch, parts)).all(0)

  good = jax.device_get(finite(params, batch))
  return tuple(i for i, one in enumerate(good) if not one)


def _gradients(job, state, fed, step) -> tuple[str, ...]:
  """Returns the paths of parameters with nonfinite gradients."""
  config, optimizer = job.run.config, job.run.optimizer
  gradient = update.gradient(
    job.run.student.module,
    job.objective,
    config.optimizer.micro_batches,
    config.student.layer_dropout,
  )
  trained, frozen = optimizer.groups.split(state.all_params)
  ranges, frozen = running_ranges.split(frozen)
  # The state may be the one after the step.
  at = jnp.int32(step - 1)
  weights = job.objective.modalities.weights(at, state.modality_norms)
  batch = modalities.weighted(fed.batch, weights)
  settings = job.objective.settings(batch, at)
  key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), at)
  (grads, _), _, _ = jax.jit(gradient)(
    *((trained, None), ranges, frozen, batch, fed.targets),
    *(settings, state.layer_maps, key),
  )
  return _paths(job.run.student.module, grads[0])
