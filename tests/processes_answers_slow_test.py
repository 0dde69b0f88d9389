"""Tests sampling modes in two processes that shard the model."""

import glob
import json
import math

import safetensors

from tests import alternating
from tests import process_runs

_MODEL = 'data/fixtures/quickstart_teacher'
_REASON = (
  *('reasoning.count=2', 'reasoning.samples=2', 'reasoning.shots=0'),
  'reasoning.max_new_tokens=6',
)
_SEARCH = (
  *('search.problem=gsm8k', 'search.evaluator=likelihood', 'search.samples=2'),
  *('search.depth=2', 'search.max_new_tokens=24', 'search.temperature=1.0'),
)
_GENERATE = 'generate.samples=2', 'generate.max_new_tokens=6'


def test_two_processes_answer_like_one(tmp_path):
  """Process 0 reads prompts and writes; the parameters are sharded over both.

  Each process has four of eight devices, or one of two.
  """
  prompts, questions = tmp_path / 'prompts.jsonl', tmp_path / 'questions.jsonl'
  prompts.write_text('{"prompt": "Q: 1+2=?\\nA:\\n"}\n{"prompt": "2+3"}\n')
  questions.write_text('{"question": "Q: 21+4-3=?", "answer": "#### 7"}\n')
  student = 'student.variant=', f'student.init=hf:{_MODEL}'
  eight, two = ('mesh.fsdp=8',), ('mesh.data=1', 'mesh.tensor=2')
  with process_runs.starting(tmp_path) as start:
    _compare(start, 'reason', two, *student, *_REASON)
    fields = *student, *_SEARCH, f'search.data={questions}'
    _compare(start, 'search', two, *fields)
    memory = str(tmp_path / 'memory')
    fields = 'student.dtype=bfloat16', f'generate.prompts={prompts}'
    # Another model, with three layers stacked in each parameter.
    stacked = alternating.teacher(str(tmp_path)).rpartition('=hf:')[2]
    student = 'student.variant=', f'student.init=hf:{stacked}'
    fields = *student, *_GENERATE, *fields
    _compare(start, 'generate', eight, *fields, memory=memory)
  for number in range(2):
    _assert_one_copy(f'{memory}.{number}', f'{stacked}/model.safetensors')


def _compare(start, mode, split, *fields, memory=None):
  """Compares a mode in one process and in two that shard the model."""
  written = []
  for count in (1, 2):
    is_split = count > 1
    changes = (*fields, *(split if is_split else ()))
    run = start(
      *(f'{mode}{count}', count, f'--mode={mode}'),
      *(f'--config.{change}' for change in changes),
      devices=4 if is_split and memory else 1,
      memory=memory if is_split else None,
    )
    codes = run.finish()
    assert codes == [0] * count, [run.text(i, 'err') for i in range(count)]
    written.append(_texts(run.workdir, mode))
  assert written[0] == written[1]


def _texts(workdir, mode):
  """Returns the texts that a mode has sampled."""
  if mode == 'search':
    (file,) = glob.glob(f'{workdir}/search/trees/*.json')
    with open(file) as f:
      nodes = json.load(f)['nodes']
    assert len(nodes) > 1
    return [node['thought'] for node in nodes]
  name = {'generate': 'completions.jsonl', 'reason': 'traces/samples.jsonl'}
  with open(f'{workdir}/{name[mode]}') as f:
    records = [json.loads(line) for line in f]
  texts = [[sample['text'] for sample in x['samples']] for x in records]
  assert [len(x) for x in texts] == [2, 2]
  return texts


def _assert_one_copy(file, weights):
  """Checks the memory of one of two processes, with half of all devices.

  Args:
    file: log of fault_driver.watch_memory.
    weights: path of the model's weights.
  """
  with safetensors.safe_open(weights, 'numpy') as tensors:
    shapes = [tensors.get_slice(x).get_shape() for x in tensors.keys()]  # noqa: SIM118
  with open(file) as f:
    lines = [json.loads(line) for line in f]
  read = [x for x in lines if 'host' in x]
  assert len(read) > 8
  for one in read:
    # The process's shard in float32, and a tensor in the file's type.
    size = 4 * math.prod(one['shape'])
    tensor = size // (one['shape'][0] if len(one['shape']) > 2 else 1)
    assert one['host'] < size / 2 + 2 * tensor + 30_000, one
  # The parameters in bfloat16, and the layers in decoding's layout.
  whole = 2 * sum(map(math.prod, shapes))
  (first, *_) = [x['devices'] for x in lines if 'devices' in x]
  assert whole / 2 < first < whole + 500_000, (first, whole)
