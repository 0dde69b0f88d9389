"""What a program costs a chip, and what a run needs beside it."""

from collections.abc import Mapping, Sequence
import dataclasses

from kd.models import attention
from kd.models import gemma3_config
from kd.planning import buffers
from kd.planning import chips
from kd.planning import compiler
from kd.planning import flops
from kd.planning import hlo
from kd.planning import programs
from kd.planning import traffic
from kd.train import resolve


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
    error: of a compiler that refuses the program: the message; else ''.
  """

  name: str
  bytes: Mapping[str, int]
  flops: float
  hbm: float
  ici: float
  host: float
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
  run: resolve.Run, program: programs.Program, answer: compiler.Compiled
) -> Cost:
  """The cost that a compiled program says it has."""
  memory = buffers.read(
    answer.text(compiler.BUFFERS), answer.text(compiler.LIVE)
  )
  text = answer.text(compiler.PROGRAM)
  moved = traffic.count(text, program.trips)
  return Cost(
    name=program.name,
    bytes=buffers.by_kind(memory, text, program.kinds),
    flops=hlo.flops(text, program.trips) + kernel_flops(run, program.name),
    hbm=moved.hbm,
    ici=moved.ici,
    host=answer.facts['host'],
    error=answer.facts['error'],
  )


def beside(run: resolve.Run) -> dict[str, dict[str, int]]:
  """Bytes a chip that lie in HBM while a program runs, and are not its own.

  Args:
    run: the run.

  Returns:
    By program, bytes by kind.
  """
  state = programs.state(run)
  student = {
    'parameters': programs.local_bytes(state.trained),
    'optimizer': programs.local_bytes(state.opt_state),
  }
  params = [programs.local_bytes(p) for p in programs.teacher_params(run)]
  tables = [programs.local_bytes(t) for t in programs.unembeddings(run)]
  cut = programs.are_cut(run)
  copies = sum(t for t, is_copy in zip(tables, cut, strict=True) if is_copy)
  given = sum(t for t, is_copy in zip(tables, cut, strict=True) if not is_copy)
  found = {
    # The update has the tables that it is given among its arguments.
    programs.STEP: {'teacher': sum(params) - given},
    programs.DECODE: {'teacher': sum(params) + copies} | student,
  }
  for number, name in enumerate(programs.teacher_names(run)):
    others = sum(params) - params[number]
    found[name] = {'teacher': others + copies} | student
  nothing = dict.fromkeys(buffers.KINDS, 0)
  return {name: nothing | kinds for name, kinds in found.items()}


def model_flops(run: resolve.Run) -> dict[str, int]:
  """Operations of a step on paper, of all chips; see flops.step."""
  data, teachers = run.config.data, run.teachers
  configs: Sequence[gemma3_config.Gemma3Config] = (
    [model.config for model, _ in teachers]
    if run.objective.needs_teacher
    else []
  )
  return flops.step(
    run.student.config,
    configs,
    data.batch_size,
    data.length,
    run.config.student.remat,
    data.batch_size * data.length,
    run.student.module.kernel,
  )


_NO_PAIRS = flops.Attention(
  pairs={gemma3_config.LOCAL: 0, gemma3_config.GLOBAL: 0},
  forward_products=0,
  backward_products=0,
)


def kernel_flops(run: resolve.Run, name: str) -> float:
  """Operations a chip of attention kernels, which a program's text lacks.

  On paper: a kernel skips blocks as its mask says. Decoding has no kernel.

  Args:
    run: the run.
    name: of the program.
  """
  data = run.config.data
  shape = data.batch_size, data.length
  teachers = dict(zip(programs.teacher_names(run), run.teachers, strict=True))
  model = teachers[name][0] if name in teachers else run.student
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

  return (every(work) - every(_NO_PAIRS)) / run.mesh.size
