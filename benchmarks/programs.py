"""Builds kd's training step for the benchmarks that run or compile it."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd.config import base
from kd.core import types
from kd.models import family
from kd.models.gemma3 import config as gemma3_config
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.planning import programs
from kd.run import resolve
from kd.run import resolved
from kd.teachers import live
from kd.train import update as update_lib
from kd.train.feeds import abstract

_NO_TAPS = types.TapSpec((), ())
OBJECTIVE, TEACHER, STEP = 'objective', programs.TEACHER, programs.STEP


@dataclasses.dataclass(frozen=True)
class Step:
  """A student and its live teacher, as in a training run.

  Attributes:
    run: the run, with forward KL, AdamW and clipping to 1.
  """

  run: resolved.Run

  @property
  def mesh(self) -> jax.sharding.Mesh:
    """The device mesh."""
    return self.run.mesh

  @functools.cached_property
  def update(self):
    """The update, jitted as in the training loop."""
    return programs.step(self.run).function

  def state(self, params: types.PyTree) -> update_lib.TrainState:
    """Returns the initial state with the shardings of updated states."""
    run = self.run
    shardings = jax.tree.map(lambda x: x.sharding, programs.state(run))
    state = update_lib.init_state(params, run.objective, run.optimizer, 0)
    return jax.device_put(state, shardings)

  def targets(self, params: types.PyTree):
    """Returns the teacher's function from a batch to its targets."""
    model = self.run.teacher
    params = jax.device_put(params, model.shardings)
    teacher = live.Teacher(model.module, params, 1.0)
    size = self.run.student.config.vocab_size
    return live.make([teacher], size, _NO_TAPS, self.mesh)

  @functools.cached_property
  def objective_gradient(self):
    """The jitted objective with its gradient, without the models.

    A function of (hidden [B, L, D], unembedding [V, D], targets, batch). The
    gradients have the shardings of their arguments.
    """
    objective = self.run.objective

    def gradient(hidden, unembedding, targets, batch):
      settings = objective.settings(batch, 0)
      total = lambda *inputs: objective.logits_total(
        *inputs, targets, batch, settings
      )[0]
      return jax.value_and_grad(total, (0, 1))(hidden, unembedding)

    rows = rules.batch_sharding(self.mesh)
    student = self.run.student
    table = student.module.unembedding(student.shardings)
    return jax.jit(gradient, out_shardings=(None, (rows, table)))

  # Shapes with shardings, for programs that are only compiled.

  def program(self, name: str):
    """Returns a jitted function and its abstract arguments.

    Args:
      name: OBJECTIVE, TEACHER or STEP.
    """
    run = self.run
    if name == OBJECTIVE:
      return self.objective_gradient, self._logits()
    (program,) = (p for p in programs.all_programs(run) if p.name == name)
    return program.function, program.arguments

  def _logits(self):
    """Returns the abstract arguments of the objective."""
    run, model = self.run, self.run.student
    shape = run.config.data.batch_size, run.config.data.length
    hidden = jax.ShapeDtypeStruct(
      (*shape, model.config.embed_dim),
      model.module.dtype,
      sharding=rules.hidden_sharding(run.mesh),
    )
    table = run.student.module.unembedding(programs.state(run).params)
    batch = abstract.batch(run, run.mesh)
    return hidden, table, programs.targets(run), batch

  def teacher_bytes_kept(self) -> int:
    """Returns bytes per chip of the teacher that updates do not receive.

    An update receives only the embedding; the rest stays in memory.
    """
    (params,) = abstract.teacher_params(self.run)
    others = {key: part for key, part in params.items() if key != 'embedding'}
    return programs.local_bytes(others)


def build(
  student: gemma3_config.Gemma3Config,
  teacher: gemma3_config.Gemma3Config,
  dtype: str,
  settings: Mapping[str, Any],
  shape: tuple[int, int],
  devices: Any,
  changes: Mapping[str, Any] | None = None,
) -> Step:
  """Builds both models.

  Args:
    student: config of the student.
    teacher: config of the teacher.
    dtype: dtype of activations and of the teacher's parameters.
    settings: the config's `remat` of the student, `chunk_tokens` and
      `positions` of the objective, and optionally `student_fields`.
    shape: shape of a batch, (B, L).
    devices: array of devices, all on the fsdp axis of the mesh.
    changes: values of more config fields by dotted path.
  """
  c = base.get_config()
  c.student.update(dtype=dtype, remat=settings['remat'])
  c.student.update(settings.get('student_fields', {}))
  c.teacher.update(dtype=dtype, param_dtype=dtype)
  c.data.batch_size, c.data.length = shape
  c.evaluation.batch_size = shape[0]
  c.mesh.update(data=1, fsdp=-1, tensor=1)
  c.losses = dict(kl=base.term('forward_kl'))
  c.objective.chunk_tokens = settings['chunk_tokens']
  c.objective.positions = base.positions(**settings['positions'])
  lr = base.schedule('constant', peak=1e-4, warmup_steps=0)
  c.optimizer = base.adamw(lr)
  c.update_from_flattened_dict(changes or {})
  sizes = {'student': student, 'teacher': teacher}
  make_mesh = lambda axes, part: mesh_lib.make(axes, devices[part])
  return Step(
    resolve.shapes(c, make_mesh, lambda spec, path, other: sizes[path])
  )


def batch(tokens: types.Array) -> types.Batch:
  """Returns rows of one segment each, with targets for all but the last token.

  Args:
    tokens: token ids [B, L].
  """
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


def random_params(model: family.Model, seed: int) -> types.PyTree:
  """Returns parameters of 0.02 x normal without compiling initializers."""
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    if path[-1].key == 'scale':
      return jnp.zeros(leaf.shape)
    values = rng.standard_normal(leaf.shape, np.float32)
    return jnp.asarray(np.multiply(values, 0.02, out=values))

  plain = jax.tree_util.tree_map_with_path(fill, model.core.abstract_params())
  return jax.jit(model.from_plain)(plain, jax.random.key(seed))
