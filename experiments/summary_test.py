import json

import numpy as np
import pytest

from experiments import summary
from kd.evaluation import results
from kd.train import evaluation_records
from kd.train import report

_SET, _STEPS, _EXAMPLES = 'held_out', 40, 200


def _result(rng, level, weights):
  nll = rng.gamma(4.0, level, _EXAMPLES) * weights
  correct = rng.integers(0, 2, _EXAMPLES).astype(float)
  metrics = {'nll': nll.sum() / weights.sum(), 'exact_match': correct.mean()}
  columns = {'weight': weights, 'nll': nll, 'exact_match': correct}
  return results.Result(
    {f'eval/{_SET}/{name}': value for name, value in metrics.items()},
    {_SET: {name: column.tolist() for name, column in columns.items()}},
    [],
    {},
  )


def _workdir(folder, seed, weights):
  rng = np.random.default_rng(seed)
  where = str(folder)
  written = {}
  for student, name, level in (
    (where, 'teacher', 0.1),
    (where, 'step_0', 2.0),
    (where, f'step_{_STEPS}', 0.3),
    (f'{where}/baseline', f'step_{_STEPS}', 0.5),
  ):
    written[student, name] = _result(rng, level, weights)
    results.write(
      evaluation_records.path(student, name), written[student, name]
    )
  lines = [{'step': n, 'train/loss': 4 / n} for n in (10, 20, 40)]
  for student in (where, f'{where}/baseline'):
    with open(f'{student}/metrics.jsonl', 'w', encoding='utf-8') as f:
      f.writelines(json.dumps(line) + '\n' for line in lines)
  models = {'student': {'init': 'random'}, 'teacher': {'init': 'hf:/a/model'}}
  config = {'steps': _STEPS, **models}
  (folder / 'config.json').write_text(json.dumps(config))
  end = {'step': _STEPS, 'reason': ''}
  ends = {'student': end, 'baseline': end}
  run = {'inputs': {}, 'changes': [], 'ends': ends}
  (folder / 'run.json').write_text(json.dumps(run))
  return written[where, f'step_{_STEPS}']


def test_a_summary_of_three_seeds(tmp_path, capsys):
  weights = np.random.default_rng(9).integers(5, 20, _EXAMPLES).astype(float)
  workdirs = [tmp_path / str(seed) for seed in range(3)]
  students = [_workdir(w, seed, weights) for seed, w in enumerate(workdirs)]
  folder = tmp_path / 'experiment'
  folder.mkdir()
  summary.main(str(folder), *map(str, workdirs))
  with open(folder / 'results.json', encoding='utf-8') as f:
    found = json.load(f)[f'eval/{_SET}/nll'][report.AFTER]
  values = [s.metrics[f'eval/{_SET}/nll'] for s in students]
  assert found['seeds'] == pytest.approx(values)
  # The bootstrap of a mean is close to the normal approximation: 1.96 standard
  # errors of a ratio of sums.
  low, high = found['interval']
  middle = np.mean(values)
  sums = np.mean([s.scores[_SET]['nll'] for s in students], axis=0)
  errors = sums - middle * weights
  width = 1.96 * np.sqrt(np.sum(errors**2)) / weights.sum()
  assert (middle - low, high - middle) == pytest.approx((width, width), rel=0.2)
  shown = capsys.readouterr().out
  each = ', '.join(f'{v:.3f}' for v in values)
  assert f'{middle:.3f} [{low:.3f}, {high:.3f}] ({each})' in shown
  with open(folder / 'config.json', encoding='utf-8') as f:
    assert json.load(f)['teacher']['init'] == 'hf:model'
  assert (folder / 'result.png').stat().st_size > 10_000


def test_runs_on_different_examples_are_refused(tmp_path):
  for seed in range(2):
    weights = np.full(_EXAMPLES, 1.0 + seed)
    _workdir(tmp_path / str(seed), seed, weights)
  with pytest.raises(ValueError, match='different held-out examples'):
    summary.read([str(tmp_path / '0'), str(tmp_path / '1')])
