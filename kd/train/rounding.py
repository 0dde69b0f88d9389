"""Measures the loss of quality from rounding to the types of exported files."""

from collections.abc import Mapping
import dataclasses
import os

import jax

from kd.core import atomic_files
from kd.core import progress
from kd.core import types
from kd.evaluation import results
from kd.evaluation import table
from kd.quantization import quantized_model
from kd.quantization import rules
from kd.quantization import schemes
from kd.run import load_params
from kd.run import resolved
from kd.teachers import live
from kd.train import evaluate
from kd.train import report

FILE = 'rounding.md'
_BEFORE = 'as trained'


def measure(
  run: resolved.Run,
  plain: types.PyTree,
  kinds: Mapping[str, str],
  say: progress.Say,
) -> dict[str, results.Result]:
  """Evaluates the student's weights as trained, and rounded to each type.

  KL and agreement are relative to the weights as trained.

  Args:
    run: the resolved run.
    plain: parameters of the plain student.
    kinds: type of the embedding by type of the other weights, with GGUF's
      names. Types without a quantization scheme round far less, and are left
      out.
    say: function called with a line of progress.

  Returns:
    The results by column title.
  """
  core = load_params.core_of(run.student)
  held_out = evaluate.prepare_sets(run, say)
  targets = live.make(
    [live.Teacher(core.module, plain, 1.0)],
    core.config.vocab_size,
    types.TapSpec((), ()),
    core.mesh,
  )
  models = {_BEFORE: core}
  for kind, table_kind in kinds.items():
    chosen = _schemes(core.config, kind, table_kind)
    if chosen:
      module = quantized_model.FakeQuantizedModel(core.module, chosen)
      title = f'{kind}, embedding {table_kind}'
      models[title] = dataclasses.replace(core, module=module)
  measured = {}
  for title, model in models.items():
    say(f'measuring the weights {title}')
    evaluator = evaluate.Evaluator(run, model, targets, held_out, say)
    measured[title] = evaluator(plain, lambda: None)
  return measured


def write(folder: str, measured: Mapping[str, results.Result]) -> str:
  """Writes the tables of all held-out sets; returns them for a terminal."""
  markdown, text = ['# Quality by weight type'], []
  for name in sorted(measured[_BEFORE].scores):
    rendered = report.set_table(measured, name)
    markdown += [f'## {name}', table.markdown(rendered)]
    text += [name, table.text(rendered)]
  path = os.path.join(folder, FILE)
  if jax.process_index() == 0:
    atomic_files.write_text(path, '\n\n'.join(markdown) + '\n')
  return '\n'.join([*text, f'rounding: {path}'])


def _schemes(config, kind, table_kind):
  scheme = lambda name: (
    name.lower() if name.lower() in schemes.SCHEMES else rules.NONE
  )
  fields = {
    'weights': scheme(kind),
    'tables': scheme(table_kind),
    'rules': {},
  }
  return rules.scheme_of(config, fields, 'export.gguf_type')
