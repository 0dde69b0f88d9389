"""Tests training from the command line: kills, preemption, resumption."""

import functools
import json
import os
import signal

import huggingface_hub
import pytest

from tests import command

# Functions that start and run the program with alternating layers.
_start, _run = (
  functools.partial(call, faults=command.ALTERNATING)
  for call in (command.start, command.run)
)


def _arguments(folder, name):
  rows = f'--config.data.folder={folder}/rows'
  return [*command.QUICK, rows, f'--workdir={folder}/{name}']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def straight(folder):
  """An undisturbed run."""
  code, out, err = _run(_arguments(folder, 'straight'))
  assert code == 0, err
  return f'{folder}/straight', out


def test_files_and_metrics(straight):
  workdir, out = straight
  for name in (
    'config.json',
    'run.json',
    'tokenizer.model',
    'report.md',
    'curves.png',
    'baseline/metrics.jsonl',
  ):
    assert os.path.getsize(os.path.join(workdir, name)), name
  lines = command.metrics(workdir)
  assert [(x['step'], x['phase']) for x in lines] == [
    (0, 'eval'),
    (3, 'train'),
    (3, 'eval'),
    (6, 'train'),
    (6, 'eval'),
  ]
  train, evaluated = lines[3], lines[4]
  assert {
    'train/loss',
    'train/loss/kl',
    'train/grad_norm',
    'train/lr',
    'train/param_norm',
    'train/nonfinite',
  } <= train.keys()
  assert {
    f'eval/held_out/{m}'
    for m in ('nll', 'perplexity', 'kl', 'agreement', 'exact_match')
  } <= evaluated.keys()
  assert lines[0]['eval/held_out/kl'] > evaluated['eval/held_out/kl']
  for words in (
    'teacher',
    'student before',
    'student after',
    'cross-entropy alone',
    'exact match',
    'ETA',
  ):
    assert words in out, out
  baseline = command.metrics(f'{workdir}/baseline')
  assert all('train/loss/ce' in x for x in baseline if x['phase'] == 'train')


# SIGKILL and SIGTERM are tested in tests/faults_slow_test.py.
def test_stopped_and_uninterrupted_runs_end_alike(folder, straight):
  workdir, arguments = f'{folder}/stopped', _arguments(folder, 'stopped')
  process = _start(arguments)
  command.wait(process, workdir)
  process.send_signal(signal.SIGINT)
  code, _, err = command.finish(process)
  assert code == 42 and 'Ctrl-C received: saved step' in err, err
  assert 'Traceback' not in err, err
  code, out, err = _run(arguments)
  assert code == 0, err
  assert 'resumes from step' in out
  for part in ('', '/baseline'):
    command.assert_ended_alike(workdir + part, straight[0] + part, 6)


def test_another_config_in_the_workdir_is_refused(folder, straight):
  before = sorted(os.listdir(straight[0]))
  code, _, err = _run(
    [*_arguments(folder, 'straight'), '--config.losses.kl.temperature=2']
  )
  assert code == 2
  assert 'losses.kl.temperature: recorded 1.0, now 2.0' in err
  assert sorted(os.listdir(straight[0])) == before


def test_nonfinite_losses_end_with_3(folder):
  code, _, err = _run(
    [
      *_arguments(folder, 'broken'),
      '--config.optimizer.lr.peak=1e30',
      '--config.evaluation.every=0',
      '--config.checkpoint.every=1',
    ]
  )
  assert code == 3, err
  assert 'step 3: ' in err and 'is not finite' in err
  assert err.count('\n') == 2, err
  assert '\nkd: likely cause: values that are not finite: ' in err
  # The first update has learning rate 0, so its checkpoint is still good.
  assert os.path.isdir(f'{folder}/broken/checkpoints/1')


def test_exports_evaluate_and_answer_like_the_run(folder, straight):
  run = _arguments(folder, 'straight')
  # Without --config, the config in the workdir is used.
  workdir = f'--workdir={straight[0]}'
  code, out, err = _run(
    [workdir, '--mode=export', '--config.export.dtype=float32']
  )
  assert code == 0 and 'model.safetensors' in out, err
  code, here, err = _run([workdir, '--mode=eval'])
  assert code == 0, err
  exported = [
    f'--config.student.init=hf:{straight[0]}/export/hf',
    f'--workdir={folder}/exported',
  ]
  code, there, err = _run([*run, *exported, '--mode=eval'])
  assert code == 0, err
  value = lambda text: float(text.split('eval/held_out/nll ')[1].split()[0])
  assert value(there) == value(here)
  with open(f'{straight[0]}/evaluations/eval_last.json') as f:
    scores = json.load(f)
  middle, low, high = scores['sets']['held_out']['intervals']['nll']
  assert low < middle < high
  assert f'{middle:.6g}' == f'{value(here):.6g}'
  assert f'{middle:.4f} [{low:.4f}, {high:.4f}]' in here
  assert scores['sets']['held_out']['counts']['answers'] == 4
  with open(f'{straight[0]}/evaluations/eval_last.answers.jsonl') as f:
    lines = [json.loads(line) for line in f]
  assert len(lines) == 4 and {'id', 'prompt', 'answer'} <= lines[0].keys()
  prompts = folder / 'prompts.jsonl'
  prompts.write_text('{"prompt": "Q: 1+2=?\\nA:\\n"}\n' * 3)
  answers = folder / 'answers.jsonl'
  ask = [
    workdir,
    '--mode=generate',
    f'--config.generate.prompts={prompts}',
    f'--config.generate.output={answers}',
  ]
  code, out, err = _run(ask)
  assert code == 0 and '3/3' in out, err
  first = answers.read_text()
  assert len({str(json.loads(x)['samples']) for x in first.splitlines()}) == 1
  answers.write_text(''.join(first.splitlines(True)[:2]))
  code, _, err = _run(ask)
  assert code == 0 and answers.read_text() == first, err


def test_verify_detects_changed_exports(folder, straight):
  workdir = f'--workdir={straight[0]}'
  both = '--config.export.formats=hf,gguf'
  code, _, err = _run([workdir, '--mode=export', both])
  assert code == 0, err
  code, out, err = _run([workdir, '--mode=verify'])
  assert code == 0 and 'differs: ' not in out, err
  assert 'claims are true' in out and 'eval/held_out/exact_match: ' in out
  export = f'{straight[0]}/export'
  card = huggingface_hub.ModelCard.load(f'{export}/hf/README.md')
  assert (card.data.license, card.data.base_model) == (
    'gemma',
    ['quickstart_teacher'],
  )
  results = {x.metric_type: x.metric_value for x in card.data.eval_results}
  evaluated = command.metrics(straight[0])[-1]
  for name in ('nll', 'kl', 'exact_match'):
    assert results[name] == pytest.approx(evaluated[f'eval/held_out/{name}'])
  assert 'Gemma Terms of Use' in card.text
  with open(f'{export}/hf/README.md', 'a') as f:
    f.write('The best model.')
  with open(f'{export}/gguf/model-Q8_0.gguf', 'r+b') as f:
    f.seek(-1, os.SEEK_END)
    f.write(b'\x55')
  with open(f'{export}/hf/more.bin', 'w') as f:
    f.write('x')
  file = f'{export}/hf/provenance.json'
  with open(file) as f:
    claims = json.load(f)
  claims['evaluation']['metrics']['eval/held_out/nll'] *= 0.9
  claims['config'] = claims['rows'] = '0' * 16
  with open(file, 'w') as f:
    json.dump(claims, f)
  code, out, err = _run([workdir, '--mode=verify'])
  assert code == 2 and '6 of ' in err and 'claims are not true' in err, err
  lines = [x for x in out.splitlines() if x.startswith('differs: ')]
  for line, part in zip(
    lines,
    (
      *('README.md: ', 'more.bin: ', ': config: claimed 0000', 'Q8_0.gguf: '),
      *(': rows: claimed 0000', '/nll: '),
    ),
    strict=True,
  ):
    assert part in line, line
