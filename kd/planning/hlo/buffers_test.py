"""Tests memory by kind on a small dump and on the programs of a run."""

import math

import jax
import pytest

from kd.configs import gemma3_tpu
from kd.models import decoding
from kd.partitioning import rules
from kd.planning import planned_run
from kd.planning import programs
from kd.planning.hlo import buffers
from kd.planning.hlo import hlo_text
from kd.train.feeds import abstract

_ASSIGNED = """\
BufferAssignment:
allocation 0: size 4096, page 0, thread-local:
 value: <1 add.1 @0> (size=4,offset=0): f32[]
allocation 1: size 1000, page 0, parameter 0, shape |f32[250]| at ShapeIndex {}:
 value: <2 param.2 @0> (size=1000,offset=0): f32[250]{0}
allocation 2: size 2000, page 0, parameter 1, shape |f32[500]| at ShapeIndex {}:
 value: <3 param.3 @0> (size=2000,offset=0): f32[500]{0}
allocation 3: size 300, page 0, parameter 2, shape |s32[75]| at ShapeIndex {}:
 value: <4 param.4 @0> (size=300,offset=0): s32[75]{0}
allocation 4: size 50, page 0, output shape is |f32[]|, maybe-live-out:
 value: <5 out @0> (size=50,offset=0): f32[]
allocation 5: size 900, page 0, preallocated-temp:
 value: <6 kept{0} @0> (size=400,offset=0): f32[100]{0}
 value: <7 gradient @0> (size=200,offset=400): f32[50]{0}
 value: <8 all-gather.9 @0> (size=100,offset=700): f32[25]{0}
 value: <9 later @0> (size=500,offset=0): f32[125]{0}
 value: <12 gradient.in.condition (phi) @0> (size=200,offset=400): f32[50]{0}
 value: <10 on-chip @1> (size=5000,offset=0): f32[125]{0:S(1)}
allocation 6: size 5000, color 1, page 0, preallocated-temp:
 value: <11 fast @1> (size=5000,offset=0): f32[1250]{0:S(1)}
"""
_LIVE = """\
HloLiveRange (max 99):
  BufferLiveRange:
    kept{0}:1-9
    gradient{}:5-9
    gradient.in.condition{}:5-8
    all-gather.9{}:6-9
    later{}:10-12
    fast{}:1-99
"""
_PROGRAM = """\
ENTRY %main (param.2: f32[250]) -> f32[] {
  %param.2 = f32[50]{0} parameter(0), metadata={op_name="state.params['w']"}
  %param.3 = f32[500]{0} parameter(1), metadata={op_name="state.opt_state[0]"}
  %param.4 = s32[75]{0} parameter(2), metadata={op_name="batch.tokens"}
  %kept = (f32[100]{0}) fusion(%param.2), kind=kLoop, calls=%f, \
metadata={op_name="jit(update)/jvp(G)/transformer_layers/while/body/add"}
  %gradient = f32[50]{0} fusion(%kept), kind=kLoop, calls=%f, \
metadata={op_name="jit(update)/transpose(jvp(G))/transformer_layers/add"}
  %all-gather.9 = f32[25]{0} all-gather(%gradient), metadata={op_name="x/y"}
  %later = f32[125]{0} add(%kept, %kept)
  ROOT %out = f32[] add(%later, %later)
}
"""
_KINDS = {'state.params': 'parameters', 'state.opt_state': 'optimizer'}


def test_bytes_by_kind():
  memory = buffers.read(_ASSIGNED, _LIVE)
  # The parameter of a loop's condition is in the same place: one array.
  assert memory.total == 1000 + 2000 + 300 + 50 + 900
  assert memory.at_peak == {
    'kept{0}': 400,
    'gradient': 200,
    'all-gather.9': 100,
  }
  sizes = buffers.by_kind(memory, _PROGRAM, _KINDS)
  gaps = 900 - 700
  assert sizes == {
    'parameters': 1000,
    'optimizer': 2000,
    'gradients': 200,
    'activations': 300 + 400 + 50,
    'kv_cache': 0,
    'teacher': 0,
    'temporaries': gaps,
    'collectives': 100,
  }
  assert sum(sizes.values()) == memory.total


_LOOP = """\
%body (p: (s32[], f32[100])) -> (s32[], f32[100]) {
  %p = (s32[], f32[100]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %c = f32[100]{0} get-tuple-element(%p), index=1
  ROOT %t = (s32[], f32[100]{0}) tuple(%i, %c)
}

ENTRY %main (a: f32[100]) -> f32[100] {
  %a = f32[100]{0} parameter(0), metadata={op_name="cache"}
  %zero = s32[] constant(0)
  %start = f32[100]{0} copy(%a), metadata={op_name="jit(f)/SCOPE/add"}
  %init = (s32[], f32[100]{0}) tuple(%zero, %start)
  %w = (s32[], f32[100]{0}) while(%init), condition=%cond, body=%body, \
metadata={op_name="jit(f)/while"}
  %moved = f32[100]{0} get-tuple-element(%w), index=1
  ROOT %r = f32[100]{0} copy(%moved)
}
"""


@pytest.mark.parametrize(
  'scope,kind', [('kv_cache', 'kv_cache'), ('other', 'temporaries')]
)
def test_carried_values_have_the_kind_of_their_initial_value(scope, kind):
  text = _LOOP.replace('SCOPE', scope)
  memory = buffers.Memory({'a': 400}, 0, 400, {'p{1}': 400})
  sizes = buffers.by_kind(memory, text, {'cache': kind})
  assert sizes == dict.fromkeys(buffers.KINDS, 0) | {kind: 800}
  memory = buffers.Memory({}, 0, 400, {'r': 400})
  assert buffers.by_kind(memory, text, {})[kind] == 400


@pytest.fixture(scope='module', name='run')
def _run():
  config = gemma3_tpu.get_config()
  config.update_from_flattened_dict(
    {
      'teacher.variant': 'nano',
      'student.variant': 'nano',
      'student.dtype': 'float32',
      'data.length': 64,
      'data.batch_size': 3,
      'evaluation.batch_size': 3,
      'evaluation.max_new_tokens': 5,
      'plan.prompt_length': 16,
    }
  )
  return planned_run.on_devices(config, jax.devices()[:1])


@pytest.fixture(scope='module', name='lowered')
def _lowered(run):
  """Returns the lowered programs of the run by name."""
  lowered_programs = {}
  for program in programs.all_programs(run):
    with rules.active(program.mesh):
      lowered = program.function.lower(*program.arguments)
    lowered_programs[program.name] = program, lowered
  return lowered_programs


def _text(lowered):
  return lowered.compiler_ir('hlo').get_hlo_module().to_string()


def _loops(text, shapes):
  """Returns bytes of float32 arrays of given shapes that each loop carries."""
  return [
    {
      f'{i.name}{{{index}}}': 4 * math.prod(array.shape)
      for index, array in enumerate(i.arrays)
      if array.shape in shapes
    }
    for computation in hlo_text.parse(text).computations.values()
    for i in computation.instructions
    if i.op == 'while'
  ]


def _argument_trees_by_kind(run):
  """Returns arguments by kind for each program, from the arrays of the run."""
  state = programs.state(run)
  student, weights = programs.decode(run).arguments[:2]
  (teacher,) = abstract.teacher_params(run)
  targets = programs.targets(run)
  return {
    'teacher': {'teacher': teacher},
    'step': {
      'parameters': state.all_params,
      'optimizer': state.opt_state,
      'teacher': targets,
    },
    'decode': {'parameters': (student, weights)},
  }


@pytest.mark.parametrize('name', ['teacher', 'step', 'decode'])
def test_arguments_are_classified_by_their_contents(run, lowered, name):
  program, text = lowered[name][0], _text(lowered[name][1])
  parsed = hlo_text.parse(text)
  sizes = {
    i.name: int(i.arrays[0].bytes)
    for i in parsed.computations[parsed.entry].instructions
    if i.op == 'parameter'
  }
  memory = buffers.Memory(sizes, 0, 0, {})
  kinds = buffers.by_kind(memory, text, program.kinds)
  batch = kinds.pop('activations')
  every = programs.local_bytes(program.arguments)
  for kind, tree in _argument_trees_by_kind(run)[name].items():
    # Unused arguments, such as the last norm in decoding, are left out.
    size = programs.local_bytes(tree)
    assert kinds.pop(kind) == pytest.approx(size, rel=0.001)
    every -= size
  assert set(kinds.values()) == {0} and batch <= every


def test_saved_inputs_of_layers_are_activations(run, lowered):
  program, text = lowered['step'][0], _text(lowered['step'][1])
  model = run.student.module.config
  saved = model.scan_groups, 3, 64, model.embed_dim
  loops = [carried for carried in _loops(text, [saved]) if carried]
  assert len(loops) == 2  # The forward pass writes them, the backward reads.
  for carried in loops:
    memory = buffers.Memory({}, 0, sum(carried.values()), carried)
    kinds = buffers.by_kind(memory, text, program.kinds)
    assert kinds['activations'] == memory.heap


def test_the_kv_cache_of_the_decoding_program_is_recognized(run, lowered):
  options = {'xla_backend_optimization_level': 0}  # Faster, the same HLO.
  text = lowered['decode'][1].compile(options).as_text()
  cache = jax.eval_shape(lambda: decoding.empty(run.student.module, 3, 16 + 5))
  shapes = [array.shape for pair in cache for array in pair]
  carried = max(_loops(text, shapes), key=len)
  assert len(carried) == len(shapes) == 12
  size = sum(carried.values())
  kinds = buffers.by_kind(buffers.Memory({}, 0, size, carried), text, {})
  assert kinds == dict.fromkeys(buffers.KINDS, 0) | {'kv_cache': size}
