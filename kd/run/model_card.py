"""Writes the model card of an export, README.md."""

from collections.abc import Iterator, Mapping, Sequence
import json
import os
from typing import Any

from kd.core import atomic_files
from kd.core import schedules
from kd.evaluation import measures
from kd.evaluation import results
from kd.input_pipeline import mixtures
from kd.models import families
from kd.models import family
from kd.run import provenance
from kd.run import resolved
from kd.run import workdirs

FILE = 'README.md'
NOTICE_FILE = 'NOTICE'

_USE = """\
```python
import transformers

tokenizer = transformers.AutoTokenizer.from_pretrained('.')
model = transformers.AutoModelForCausalLM.from_pretrained('.')
{prompt}
answer = model.generate(**inputs, max_new_tokens=128)
print(tokenizer.decode(answer[0][inputs['input_ids'].shape[1]:]))
```

in this folder; `vllm serve .` serves it. Metrics and digests of what the model
was made from are in `{provenance}`."""
_CHAT = """\
inputs = tokenizer.apply_chat_template(
    [{'role': 'user', 'content': 'Hello'}], add_generation_prompt=True,
    return_tensors='pt', return_dict=True)"""
_PLAIN = "inputs = tokenizer('Hello', return_tensors='pt')"


def name(workdir: str) -> str:
  """Returns the name of a workdir's model."""
  return os.path.basename(os.path.abspath(workdir))


def write_notice(config: family.Config, folder: str) -> None:
  """Writes the notice that a model's license requires."""
  notice = families.of(config).notice
  if notice:
    atomic_files.write_text(os.path.join(folder, NOTICE_FILE), notice + '\n')


def text(
  run: resolved.Run,
  workdir: str,
  claims: Mapping[str, Any],
  result: results.Result | None,
  has_turns: bool,
) -> str:
  """Returns the model card.

  Args:
    run: the resolved run.
    workdir: the run's folder.
    claims: claims of the export, from provenance.collect.
    result: evaluation of the weights; None without one.
    has_turns: whether the chat template has turns.
  """
  chosen = families.of(run.student.config)
  bases = base_models(run.config)
  front = {
    'base_model': bases,
    'library_name': 'transformers',
    'pipeline_tag': 'text-generation',
    'license': chosen.license,
    'datasets': _tasks(workdir),
    'tags': [
      'distillation',
      'knowledge-distillation',
      chosen.config_type.family,
    ],
    'model-index': _model_index(run, workdir, result),
  }
  front = {key: value for key, value in front.items() if value}
  count = run.student.config.parameter_count
  made = f', made from {" and ".join(bases)}' if bases else ''
  parts = [
    '---\n' + '\n'.join(_yaml(front)) + '\n---',
    f'# {name(workdir)}',
    f'A {chosen.title} model of {count:,} parameters{made}.',
    '## Training',
    _made(run, claims),
  ]
  if result is not None:
    note = (
      'Metrics of the parameters as trained; the files contain them in '
      f'{run.config.export.dtype}.'
    )
    parts += ['## Evaluation', _table(result), note]
  parts += [
    '## Use',
    _USE.format(
      prompt=_CHAT if has_turns else _PLAIN, provenance=provenance.FILE
    ),
  ]
  parts += ['## License', f'`{chosen.license}`. {chosen.notice}'.strip()]
  return '\n\n'.join(parts) + '\n'


def base_models(config: Any) -> list[str]:
  """Returns the names of the weights that a student was derived from."""
  inits = [config.student.init]
  if config.teacher.source != 'none':
    inits += [
      config.teacher.init,
      *(o.init for o in config.teacher.others.values()),
    ]
  named = (init for init in inits if ':' in init)
  return list(dict.fromkeys(map(provenance.weights_name, named)))


def _tasks(workdir: str) -> list[str]:
  """Returns the tasks that a student was trained on."""
  return sorted(workdirs.read_run(workdir).get('mixture', {}))


def _model_index(
  run: resolved.Run, workdir: str, result: results.Result | None
) -> list[dict[str, Any]]:
  if result is None:
    return []
  entries, sets = [], run.config.evaluation.sets
  for set_name in (name for name in result.scores if name in sets):
    entry = sets[set_name]
    mixture = mixtures.shown(entry.mixture or run.config.data.mixture)
    entries.append(
      {
        'task': {'type': 'text-generation'},
        'dataset': {'name': set_name, 'type': mixture, 'split': entry.split},
        'metrics': [
          {'type': measure.metric, 'name': measure.title, 'value': value}
          for measure, value in _values(result, set_name)
        ],
      }
    )
  return [{'name': name(workdir), 'results': entries}]


def _values(
  result: results.Result, set_name: str
) -> Iterator[tuple[measures.Measure, float | str | None]]:
  """Yields the metrics of a set that an export claims."""
  claimed = provenance.metrics(result)
  for measure in measures.of(result, set_name):
    key = f'eval/{set_name}/{measure.metric}'
    if key in claimed:
      yield measure, claimed[key]


def _table(result: results.Result) -> str:
  lines = ['| set | metric | value |', '| --- | --- | --- |']
  for set_name in result.scores:
    for measure, value in _values(result, set_name):
      shown = f'{value:.4g}' if isinstance(value, float) else str(value)
      lines.append(f'| {set_name} | {measure.title} | {shown} |')
  return '\n'.join(lines)


def _made(run: resolved.Run, claims: Mapping[str, Any]) -> str:
  c, student = run.config, claims['student']
  lines = [f'- Weights: {student["source"]}, digest `{student["weights"]}`.']
  if 'step' in student:
    tokens = c.data.batch_size * c.data.length
    losses = ', '.join(
      f'{schedules.text(term.weight)} x {term.name}'
      for term in c.losses.values()
    )
    lines += [
      f'- Trained for {student["step"]:,} steps of {tokens:,} tokens on '
      f'`{mixtures.shown(c.data.mixture)}`, from '
      f'`{provenance.weights_name(c.student.init)}`.',
      f'- Loss: {losses}; targets: `teacher.source={c.teacher.source}`.',
    ]
  if run.student.keep_layers:
    kept = ', '.join(map(str, run.student.keep_layers))
    lines.append(f'- Layers kept of the initial weights: {kept}.')
  for field, digest in sorted(claims['inputs'].items()):
    lines.append(f'- `{field}`: digest `{digest[:16]}`.')
  return '\n'.join(lines)


def _yaml(value: Any, indent: str = '') -> Iterator[str]:
  """Yields the lines of a value in YAML, with scalars written as JSON."""
  items = value.items() if isinstance(value, Mapping) else None
  if items is None:
    items = ((None, part) for part in value)
  for key, part in items:
    lead = f'{indent}- ' if key is None else f'{indent}{key}:'
    if isinstance(part, Mapping | Sequence) and not isinstance(part, str):
      inner = list(_yaml(part, indent + '  '))
      if key is None:
        yield lead + inner[0][len(indent) + 2 :]
        inner = inner[1:]
      else:
        yield lead
      yield from inner
    else:
      text_ = json.dumps(part, ensure_ascii=False)
      yield lead + (text_ if key is None else f' {text_}')
