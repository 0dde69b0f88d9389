"""The project's own step as the benchmarks run and compile it."""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from kd.core import types
from kd.losses import catalog
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import terms
from kd.models import gemma3
from kd.models import gemma3_config
from kd.optimizers import optimizers
from kd.partitioning import rules
from kd.teachers import live
from kd.train import update as update_lib

_STEPS = 1000
_NO_TAPS = gemma3.TapSpec((), ())


def _objective(chunk_tokens, positions):
  """Forward KL at temperature 1."""
  context = terms.Context(steps=_STEPS, student=None, teacher=_ANY_SIZES)
  losses = {'kl': base.term('forward_kl').to_dict()}
  return objective_lib.Objective(
    terms=catalog.build(losses, context),
    selection=selection.build(positions, 'positions', _STEPS),
    chunk_tokens=chunk_tokens,
  )


# Only terms that compare layers look at what these are.
_ANY_SIZES = terms.Sizes(1, 1, 1, 1, 1, 1.0, (None,))


@dataclasses.dataclass(frozen=True)
class Step:
  """A student and its live teacher: forward KL, AdamW, clipping to 1.

  Attributes:
    student: the student's module.
    teacher: the teacher's.
    chunk_tokens: see objective.Objective.
    positions: the config's `objective.positions`.
    mesh: the devices.
    teacher_dtype: of the teacher's parameters.
  """

  student: gemma3.Gemma3
  teacher: gemma3.Gemma3
  chunk_tokens: int
  positions: Mapping[str, Any]
  mesh: jax.sharding.Mesh
  teacher_dtype: str

  @functools.cached_property
  def objective(self) -> objective_lib.Objective:
    return _objective(self.chunk_tokens, self.positions)

  @functools.cached_property
  def _optimizer(self):
    lr = base.schedule('constant', peak=1e-4, warmup_steps=0)
    spec = base.adamw(lr, clip_norm=1.0).to_dict()
    return optimizers.build(spec, _STEPS)

  @functools.cached_property
  def update(self):
    """The jitted update, as the training loop jits it."""
    make = update_lib.make(self.student, self.objective, *self._optimizer, 1)
    return update_lib.jit(make, self.mesh)

  def state(self, params: types.PyTree) -> update_lib.TrainState:
    """The state before the first update, where updates will leave it."""
    shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state())
    state = update_lib.init_state(params, self.objective, self._optimizer[0], 0)
    return jax.device_put(state, shardings)

  def targets(self, params: types.PyTree):
    """The teacher's function from a batch to its targets."""
    abstract = self.abstract_params(self.teacher, self.teacher_dtype)
    params = jax.device_put(
      params, jax.tree.map(lambda x: x.sharding, abstract)
    )
    teacher = live.Teacher(self.teacher, params, 1.0)
    size = self.student.config.vocab_size
    return live.make([teacher], size, _NO_TAPS, self.mesh)

  @functools.cached_property
  def score(self):
    """The teacher's forward pass alone, jitted, of (params, batch)."""
    return live.scorer(self.teacher, _NO_TAPS)

  @functools.cached_property
  def objective_gradient(self):
    """The objective and its gradient alone, jitted.

    Of (hidden [B, L, D], unembedding [V, D], targets, batch); gradients lie as
    what they are of.
    """
    embedding = self.abstract_params(self.student, 'float32')['embedding']

    def gradient(hidden, unembedding, targets, batch):
      settings = objective_lib.settings(self.objective, batch, 0)
      total = lambda *inputs: objective_lib.logits_total(
        self.objective, *inputs, targets, batch, settings
      )[0]
      return jax.value_and_grad(total, (0, 1))(hidden, unembedding)

    rows = rules.batch_sharding(self.mesh)
    return jax.jit(gradient, out_shardings=(None, (rows, embedding.sharding)))

  # Shapes with their places, for programs that are only compiled.

  def program(self, name: str, rows: int, length: int):
    """A jitted function and its abstract arguments.

    Args:
      name: 'objective', 'teacher' or 'step'.
      rows: B.
      length: L.
    """
    batch = self.abstract_batch(rows, length)
    if name == 'teacher':
      params = self.abstract_params(self.teacher, self.teacher_dtype)
      return self.score, (params, batch)
    targets = self.abstract_targets(rows, length)
    state = self.abstract_state()
    if name == 'step':
      return self.update, (state, batch, targets)
    hidden = self._hidden(self.student, rows, length)
    embedding = state.params['embedding']
    return self.objective_gradient, (hidden, embedding, targets, batch)

  def _hidden(self, model, rows, length):
    shape = rows, length, model.config.embed_dim
    return self._array(shape, model.dtype, rules.hidden_sharding(self.mesh))

  def abstract_params(self, model: gemma3.Gemma3, dtype: str) -> types.PyTree:
    """A model's parameters as they lie on the mesh."""
    shapes = gemma3.unbox(gemma3.abstract_params(model))
    shardings = rules.param_shardings(
      self.mesh, gemma3.logical_axes(model), shapes, ''
    )
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype, sharding=s),
      shapes,
      shardings,
    )

  def teacher_bytes_beside(self) -> int:
    """Bytes a chip of the teacher that an update is not given but that stay.

    It is given the embedding alone.
    """
    params = self.abstract_params(self.teacher, self.teacher_dtype)
    others = {key: part for key, part in params.items() if key != 'embedding'}
    return sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(others)
    )

  def abstract_state(self) -> update_lib.TrainState:
    """The student's state, where updates leave it."""
    params = self.abstract_params(self.student, 'float32')
    return update_lib.abstract_state(
      params, self.objective, self._optimizer[0], self.mesh
    )

  @staticmethod
  def _array(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  def abstract_batch(self, rows: int, length: int) -> types.Batch:
    """Rows, split over the mesh."""
    split = rules.batch_sharding(self.mesh)
    return jax.tree.map(
      lambda x: self._array(x.shape, x.dtype, split),
      jax.eval_shape(lambda: batch(jnp.zeros((rows, length), jnp.int32))),
    )

  def abstract_targets(self, rows: int, length: int) -> types.Targets:
    """What the teacher says of the rows."""
    table = self.abstract_params(self.teacher, self.teacher_dtype)['embedding']
    # As the live teacher cuts it.
    size = min(table.shape[0], self.student.config.vocab_size)
    place = rules.table_sharding(self.mesh, size)
    dense = types.Dense(
      final_hidden=self._hidden(self.teacher, rows, length),
      unembedding=self._array((size, table.shape[1]), table.dtype, place),
      share=self._array((), jnp.float32, rules.replicated(self.mesh)),
    )
    return types.Targets(distribution=(dense,), taps=None)


def build(
  student: gemma3_config.Gemma3Config,
  teacher: gemma3_config.Gemma3Config,
  dtype: str,
  remat: str,
  chunk_tokens: int,
  positions: Mapping[str, Any],
  mesh: jax.sharding.Mesh,
) -> Step:
  """Builds both models.

  Args:
    student: sizes of the student.
    teacher: of the teacher.
    dtype: of activations, and of the teacher's parameters.
    remat: the student's policy.
    chunk_tokens: see objective.Objective.
    positions: the config's `objective.positions`.
    mesh: the devices.
  """
  return Step(
    student=gemma3.build(student, dtype, remat, 'student'),
    teacher=gemma3.build(teacher, dtype, 'none', 'teacher'),
    chunk_tokens=chunk_tokens,
    positions=positions,
    mesh=mesh,
    teacher_dtype=dtype,
  )


def batch(tokens: types.Array) -> types.Batch:
  """Rows of one segment each: all tokens [B, L] but the last are targets."""
  rows, length = tokens.shape
  ones = jnp.ones_like(tokens)
  places = jnp.arange(length, dtype=jnp.int32)
  return types.Batch(
    tokens=tokens,
    targets=jnp.roll(tokens, -1, axis=1),
    positions=ones * places,
    segment_ids=ones,
    parts=jnp.zeros_like(tokens),
    weights=jnp.where(ones * places < length - 1, 1.0, 0.0),
    row_id=jnp.arange(rows, dtype=jnp.int32),
  )


def random_params(model: gemma3.Gemma3, seed: int) -> types.PyTree:
  """Float32 parameters without compiling their initialisers: 0.02 x normal."""
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    if path[-1].key == 'scale':
      return jnp.zeros(leaf.shape)
    values = rng.standard_normal(leaf.shape, np.float32)
    return jnp.asarray(np.multiply(values, 0.02, out=values))

  shapes = gemma3.unbox(gemma3.abstract_params(model))
  return jax.tree_util.tree_map_with_path(fill, shapes)
