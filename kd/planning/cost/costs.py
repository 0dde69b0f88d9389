"""Computes the cost of each program and the resident memory of a run."""

from collections.abc import Mapping
import dataclasses
import functools

import jax

from kd.models import layer_stack
from kd.models.attention import attention
from kd.planning import compile_client
from kd.planning import programs
from kd.planning.cost import chips
from kd.planning.cost import flops
from kd.planning.cost import stages as stages_lib
from kd.planning.cost import tower_flops
from kd.planning.hlo import buffers
from kd.planning.hlo import hlo
from kd.planning.hlo import traffic
from kd.run import resolved
from kd.train.feeds import abstract


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of one program on one chip.

  Attributes:
    name: name of the program.
    bytes: bytes in HBM at the program's peak, by buffers.KINDS.
    flops: floating point operations.
    hbm: bytes read from and written to HBM.
    ici: bytes received from other chips.
    host: bytes in host memory.
    fetched: bytes of teachers' weights that are copied from host memory.
    stated: bytes in HBM as the compiler reports them; 0 if it does not.
    error: the compiler's message if the program does not compile; else ''.
  """

  name: str
  bytes: Mapping[str, int]
  flops: float
  hbm: float
  ici: float
  host: float
  fetched: float
  stated: int
  error: str

  def seconds(self, chip: chips.Chip) -> float:
    """Returns the roofline time, as if compute and transfers fully overlap."""
    return max(self.seconds_by_part(chip).values())

  def seconds_by_part(self, chip: chips.Chip) -> dict[str, float]:
    """Returns the time of compute, HBM, network and host traffic."""
    return {
      'compute': self.flops / chip.flops,
      'memory': self.hbm / chip.hbm_bandwidth,
      'network': self.ici / chip.ici_bandwidth,
      'host': self.fetched / chip.host_bandwidth,
    }


def compiled(
  run: resolved.Run, program: programs.Program, answer: compile_client.Compiled
) -> Cost:
  """Returns the cost of a compiled program, read from its text."""
  memory = buffers.read(
    answer.text(compile_client.BUFFERS), answer.text(compile_client.LIVE)
  )
  text = answer.text(compile_client.PROGRAM)
  moved = traffic.count(text, program.trips)
  return Cost(
    name=program.name,
    bytes=buffers.by_kind(memory, text, program.kinds),
    flops=hlo.flops(text, program.trips) + kernel_flops(run, program.name),
    hbm=moved.hbm,
    ici=moved.ici,
    host=answer.facts['host'],
    fetched=fetched_bytes(run, program.name),
    stated=answer.facts['bytes'],
    error=answer.facts['error'],
  )


def fetched_bytes(run: resolved.Run, name: str) -> int:
  """Returns bytes per chip of weights that a program copies from host memory.

  Args:
    run: the run.
    name: name of the program.
  """
  names = programs.teacher_names(run)
  if name not in names:
    return 0
  params = abstract.teacher_params(run)[names.index(name)]
  return programs.local_bytes(params, in_host=True)


@dataclasses.dataclass(frozen=True)
class ResidentMemory:
  """The memory that a run keeps between programs, in bytes per chip.

  Attributes:
    parameters: the student's parameters, and projections of loss terms.
    gradients: gradients of the trained parameters.
    student: parameters of the student.
    optimizer: optimizer moments, and an average of parameters, in HBM.
    optimizer_on_host: optimizer moments in host memory.
    embedding: one embedding table of the student.
    head: its output embedding; 0 if tied to the input embedding.
    teachers: parameters of each teacher.
    unembeddings: for each teacher, the unembedding used by its targets.
    copied: for each teacher, whether that unembedding is a copy: truncated to
      the student's vocabulary, or moved to the student's mesh.
  """

  parameters: int
  gradients: int
  student: int
  optimizer: int
  optimizer_on_host: int
  embedding: int
  head: int
  teachers: tuple[int, ...]
  unembeddings: tuple[int, ...]
  copied: tuple[bool, ...]

  @property
  def copied_bytes(self) -> int:
    """Returns the bytes of the unembeddings that are copies."""
    both = zip(self.unembeddings, self.copied, strict=True)
    return sum(size for size, is_copy in both if is_copy)


def resident_memory(run: resolved.Run) -> ResidentMemory:
  """Computes the resident memory of a run from its shapes and mesh."""
  state, module = programs.state(run), run.student.module
  trained, _ = run.optimizer.groups.split(state.all_params)
  embedding = programs.local_bytes(module.core.unembedding(state.params))
  sizes = lambda trees: tuple(programs.local_bytes(tree) for tree in trees)
  return ResidentMemory(
    parameters=programs.local_bytes(state.all_params),
    gradients=programs.local_bytes(trained),
    student=programs.local_bytes(state.params),
    optimizer=programs.local_bytes((state.opt_state, state.ema)),
    optimizer_on_host=programs.local_bytes(state.opt_state, in_host=True),
    embedding=embedding,
    head=0 if module.config.tied else embedding,
    teachers=sizes(abstract.teacher_params(run)),
    unembeddings=sizes(abstract.unembeddings(run)),
    copied=tuple(programs.copies_unembedding(run)),
  )


def extra_bytes(
  run: resolved.Run, resident: ResidentMemory
) -> dict[str, dict[str, int]]:
  """Returns resident bytes that are not arguments of the running program.

  Args:
    run: the run.
    resident: its resident memory.

  Returns:
    For each program, bytes per chip by kind.
  """
  student = {'parameters': resident.parameters, 'optimizer': resident.optimizer}
  # The student's own parameters are arguments of the decoding program.
  projections = {'parameters': resident.parameters - resident.student}
  teachers = sum(resident.teachers)
  has_own_chips = programs.has_teacher_devices(run)
  on_students = resident.copied_bytes + (0 if has_own_chips else teachers)
  extra = {
    # The unembeddings are arguments of the update.
    programs.STEP: {'teacher': on_students - sum(resident.unembeddings)},
    programs.DECODE: {'teacher': on_students} | student | projections,
  }
  for name, own in zip(
    programs.teacher_names(run), resident.teachers, strict=True
  ):
    extra[name] = {'teacher': teachers - own}
    if not has_own_chips:
      extra[name] = {'teacher': on_students - own} | student
  zero = dict.fromkeys(buffers.KINDS, 0)
  return {name: zero | kinds for name, kinds in extra.items()}


def model_flops(
  run: resolved.Run, logits_fraction: float = 1.0
) -> dict[str, int]:
  """Returns the operations of a step on all chips, by formula.

  Args:
    run: the run.
    logits_fraction: fraction of the positions with logits.
  """
  data = run.config.data
  teachers = run.teacher_models if run.objective.needs_teacher else ()
  by_part = flops.step(
    run.student.config,
    [model.config for model in teachers],
    data.batch_size,
    data.length,
    run.config.student.remat,
    round(data.batch_size * data.length * logits_fraction),
    run.student.module.kernel,
    _frozen(run.student.module, run.optimizer.groups),
  )
  tower = tower_flops.step(run)
  return by_part | (tower.by_part if tower else {})


@functools.lru_cache(maxsize=64)  # A search calls this for each candidate.
def _frozen(module, groups):
  """Returns the student's parameters that the optimizer does not train."""
  matrices, unembedding = 0, False
  _, frozen = groups.split((module.abstract_params(), {}))
  table = 'embedding' if module.config.tied else 'head'
  for path, x in jax.tree_util.tree_leaves_with_path(frozen):
    names = groups.names(path)
    is_layer = names[0].startswith('layers.')
    if is_layer and x.ndim > 1 + layer_stack.is_stacked(path):
      matrices += x.size
    unembedding |= names[0].partition('.')[0] == table
  return flops.Frozen(matrices, unembedding)


def kernel_flops(run: resolved.Run, name: str) -> float:
  """Returns operations per chip of attention kernels, by formula.

  A program's text does not contain them, as kernels skip blocks according to
  the mask. Decoding has no kernel.

  Args:
    run: the run.
    name: name of the program.
  """
  data = run.config.data
  shape = data.batch_size, data.length
  teachers = dict(
    zip(programs.teacher_names(run), run.teacher_models, strict=True)
  )
  model = teachers.get(name, run.student)
  kernel = model.module.kernel
  if kernel == attention.XLA or name == programs.DECODE:
    return 0.0
  work = flops.as_computed(model.config, data.length, kernel)

  def total(work):
    parts = [flops.forward(model.config, *shape, work)]
    if name == programs.STEP:
      remat = run.config.student.remat
      parts.append(flops.backward(model.config, *shape, work))
      parts.append(flops.recomputed(model.config, *shape, work, remat))
    return sum(parts)

  no_products = dataclasses.replace(
    work, forward_products=0, backward_products=0
  )
  stages = stages_lib.of(model, data.batch_size)
  if name == programs.STEP:
    stages = stages_lib.of_update(run)
  products = total(work) - total(no_products)
  return products * stages.repeated / model.mesh.size
