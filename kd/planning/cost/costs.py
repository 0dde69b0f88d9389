"""The cost of each program on one chip, and the memory a run holds besides."""

from collections.abc import Mapping
import dataclasses

from kd.models import attention
from kd.planning import compile_client
from kd.planning import programs
from kd.planning.cost import chips
from kd.planning.cost import flops
from kd.planning.hlo import buffers
from kd.planning.hlo import hlo
from kd.planning.hlo import traffic
from kd.train import resolved
from kd.train.feeds import abstract


@dataclasses.dataclass(frozen=True)
class Cost:
  """One program on one chip.

  Attributes:
    name: of the program.
    bytes: in HBM while it needs most, by buffers.KINDS.
    flops: operations.
    hbm: bytes that it reads and writes.
    ici: bytes that come in from other chips.
    host: bytes that it holds in the host's memory.
    stated: bytes in HBM as the compiler sums them up; 0 where it does not.
    error: of a compiler that refuses the program: the message; else ''.
  """

  name: str
  bytes: Mapping[str, int]
  flops: float
  hbm: float
  ici: float
  host: float
  stated: int
  error: str

  def seconds(self, chip: chips.Chip) -> float:
    """The roofline: whatever takes longest, all else going on meanwhile."""
    return max(self.seconds_by_part(chip).values())

  def seconds_by_part(self, chip: chips.Chip) -> dict[str, float]:
    return {
      'compute': self.flops / chip.flops,
      'memory': self.hbm / chip.hbm_bandwidth,
      'network': self.ici / chip.ici_bandwidth,
    }


def compiled(
  run: resolved.Run, program: programs.Program, answer: compile_client.Compiled
) -> Cost:
  """Returns the cost that a compiled program says it has."""
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
    stated=answer.facts['bytes'],
    error=answer.facts['error'],
  )


@dataclasses.dataclass(frozen=True)
class Held:
  """What a run holds in memory from step to step, bytes per chip.

  Attributes:
    parameters: everything that is trained: the student, and projections of loss
      terms.
    student: the student's part of it.
    optimizer: moments in HBM.
    on_host: moments in the host's memory.
    embedding: one embedding of the student.
    head: its output embedding, 0 if that is the input embedding.
    teachers: parameters, by teacher.
    tables: by teacher, the unembedding that its targets refer to.
    copied: by teacher, whether that is a copy: cut to the student's vocabulary,
      or moved to the student's mesh.
  """

  parameters: int
  student: int
  optimizer: int
  on_host: int
  embedding: int
  head: int
  teachers: tuple[int, ...]
  tables: tuple[int, ...]
  copied: tuple[bool, ...]

  @property
  def copies(self) -> int:
    """Bytes of the tables that are copies."""
    both = zip(self.tables, self.copied, strict=True)
    return sum(size for size, is_copy in both if is_copy)


def held(run: resolved.Run) -> Held:
  """Returns what the run holds, from its shapes and its mesh."""
  state, module = programs.state(run), run.student.module
  embedding = programs.local_bytes(module.unembedding(state.params))
  sizes = lambda trees: tuple(programs.local_bytes(tree) for tree in trees)
  return Held(
    parameters=programs.local_bytes(state.trained),
    student=programs.local_bytes(state.params),
    optimizer=programs.local_bytes(state.opt_state),
    on_host=programs.local_bytes(state.opt_state, of_host=True),
    embedding=embedding,
    head=0 if module.config.tied else embedding,
    teachers=sizes(abstract.teacher_params(run)),
    tables=sizes(abstract.unembeddings(run)),
    copied=tuple(programs.are_copies(run)),
  )


def beside(run: resolved.Run, kept: Held) -> dict[str, dict[str, int]]:
  """Returns bytes in HBM while a program runs that are not its own, by kind.

  Args:
    run: the run.
    kept: what it holds.

  Returns:
    By program, bytes per chip by kind.
  """
  student = {'parameters': kept.parameters, 'optimizer': kept.optimizer}
  # The student's own parameters are arguments of the decoding program.
  projections = {'parameters': kept.parameters - kept.student}
  teachers = sum(kept.teachers)
  apart = programs.is_apart(run)
  on_students = kept.copies + (0 if apart else teachers)
  found = {
    # The unembeddings are arguments of the update.
    programs.STEP: {'teacher': on_students - sum(kept.tables)},
    programs.DECODE: {'teacher': on_students} | student | projections,
  }
  for name, own in zip(programs.teacher_names(run), kept.teachers, strict=True):
    others = {'teacher': teachers - own}
    found[name] = others
    if not apart:
      found[name] = {'teacher': on_students - own} | student
  nothing = dict.fromkeys(buffers.KINDS, 0)
  return {name: nothing | kinds for name, kinds in found.items()}


def model_flops(run: resolved.Run) -> dict[str, int]:
  """Operations of a step on paper, of all chips; see flops.step."""
  data = run.config.data
  teachers = run.teacher_models if run.objective.needs_teacher else ()
  return flops.step(
    run.student.config,
    [model.config for model in teachers],
    data.batch_size,
    data.length,
    run.config.student.remat,
    data.batch_size * data.length,
    run.student.module.kernel,
  )


def kernel_flops(run: resolved.Run, name: str) -> float:
  """Operations a chip of attention kernels, which a program's text lacks.

  On paper: a kernel skips blocks as its mask says. Decoding has no kernel.

  Args:
    run: the run.
    name: of the program.
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

  def every(work):
    parts = [flops.forward(model.config, *shape, work)]
    if name == programs.STEP:
      remat = run.config.student.remat
      parts.append(flops.backward(model.config, *shape, work))
      parts.append(flops.recomputed(model.config, *shape, work, remat))
    return sum(parts)

  nothing = dataclasses.replace(work, forward_products=0, backward_products=0)
  return (every(work) - every(nothing)) / model.mesh.size
