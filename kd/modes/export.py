"""Exports the student for other systems: config, weights, tokenizer."""

from collections.abc import Callable
import dataclasses
import functools
import os
from typing import Any

import jax
import ml_collections

from kd.checkpoints import gguf_writer
from kd.checkpoints import mmproj
from kd.checkpoints import peft
from kd.core import atomic_files
from kd.core import errors
from kd.core import layout
from kd.core import paths
from kd.core import types
from kd.input_pipeline import gguf_tokenizers
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.models import families
from kd.models import lora
from kd.run import hf_folder
from kd.run import load_params
from kd.run import model_card
from kd.run import outputs
from kd.run import provenance
from kd.run import resolved
from kd.run import session
from kd.teachers import param_digest
from kd.train import rounding


class Weights:
  """The student's weights.

  Attributes:
    params: parameters of the student; deleted by the first use of `plain`,
      unless the student is plain.
  """

  def __init__(self, student: resolved.Model, params: types.PyTree):
    self._student, self.params = student, params

  @functools.cached_property
  def plain(self) -> types.PyTree:
    """Returns the parameters of the plain model with the same outputs."""
    return load_params.plain(self._student, self.params)


# Writes files with the given weights, claims and model card.
Write = Callable[[Weights, dict[str, Any], str], None]


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes <workdir>/export/{hf,gguf,peft}, according to export.formats."""
  run = session.open_trained(config, workdir)
  # All checks come before the weights are read, which may take minutes.
  writers = [
    FORMATS[name](run, workdir)
    # Adapters come first, since plain weights replace them.
    for name in FORMATS
    if name in run.config.export.formats
  ]
  params = outputs.student_params(run, workdir)
  # Runs on all processes, since each holds a part of the parameters.
  weights = param_digest.of(params)
  claims, result = provenance.collect(run, workdir, weights)
  has_turns = templates.has_turns(run.config.data.template)
  card = model_card.text(run, workdir, claims, result, has_turns)
  student = Weights(run.student, params)
  for write in writers:
    write(student, claims, card)


def _hf(run: resolved.Run, workdir: str) -> Write:
  """Returns a function that writes the Hugging Face folder."""
  folder = os.path.join(workdir, layout.EXPORT, 'hf')
  hf_tokenizer.check(run.tokenizer, 'data.tokenizer')

  def write_more(new, claims, card):
    atomic_files.write_text(os.path.join(new, model_card.FILE), card)
    model_card.write_notice(run.student.config, new)
    path = os.path.join(new, provenance.FILE)
    provenance.write(path, claims, run.config.export.dtype, os.listdir(new))

  def write(weights, claims, card):
    hf_folder.write(
      folder,
      run,
      weights.plain,
      run.student.config,
      lambda new: write_more(new, claims, card),
    )
    source = run.student.source if run.student.keep_layers else None
    warning = families.of(run.student.config).export_warning(
      run.student.config, source
    )
    if warning:
      session.say(f'warning: {warning}')
    _say_written(folder)

  return write


def _gguf(run: resolved.Run, workdir: str) -> Write:
  """Returns a function that writes a GGUF file for each type."""
  c, config = run.config.export, run.student.config
  folder = os.path.join(workdir, layout.EXPORT, 'gguf')
  kinds = {
    kind: gguf_writer.embedding_type(c.gguf_embedding_type, kind)
    for kind in c.gguf_type
  }
  for kind, table_kind in kinds.items():
    gguf_writer.check(config, kind, table_kind, 'export.gguf_type')
  metadata = gguf_tokenizers.fields(
    run.tokenizer,
    config.vocab_size,
    run.config.data.template,
    'data.tokenizer',
  )
  model_name = model_card.name(workdir)
  metadata = {'general.name': model_name, **metadata}
  towers = dict.fromkeys(map(mmproj.tower_type, kinds)) if config.vision else ()

  def write(weights, claims, card):
    del card  # It describes loading with transformers.
    # The metrics were measured before this conversion.
    claims = claims | {'evaluation': None}
    is_first = jax.process_index() == 0
    if is_first:
      os.makedirs(folder, exist_ok=True)
      model_card.write_notice(config, folder)
    for kind, table_kind in kinds.items():
      name = f'model-{kind}.gguf'
      path = os.path.join(folder, name)
      plain = weights.plain
      gguf_writer.write(path, plain, config, kind, table_kind, metadata)
      if is_first:
        provenance.write(f'{path}.{provenance.FILE}', claims, kind, [name])
    for kind in towers:
      name = f'mmproj-{kind}.gguf'
      path = os.path.join(folder, name)
      mmproj.write(path, weights.plain, config, kind, model_name)
      if is_first:
        provenance.write(f'{path}.{provenance.FILE}', claims, kind, [name])
    if c.measure:
      measured = rounding.measure(run, weights.plain, kinds, session.say)
      session.say(rounding.write(folder, measured))
    note = families.of(config).gguf_note(config)
    if note:
      session.say(f'note: {note}')
    _say_written(folder)

  return write


def _peft(run: resolved.Run, workdir: str) -> Write:
  """Returns a function that writes the adapters, and the base if needed."""
  module = run.student.module
  if not isinstance(module, lora.LoraModel):
    raise errors.ConfigError(
      'export.formats',
      "found 'peft', and the student is not a plain model with adapters",
      legal='hf, gguf; or student.lora.rank above 0, without student.quantize',
    )
  folder = os.path.join(workdir, layout.EXPORT, 'peft')
  base = _base_folder(run)
  base_folder = base or os.path.join(workdir, layout.EXPORT, 'peft_base')

  def write(weights, claims, card):
    del card  # It describes loading the whole model with transformers.
    if not base:
      bare = dataclasses.replace(run.student, module=module.inner)
      base_params = module.base_params(weights.params)
      params = load_params.plain(bare, base_params, keep=True)
      hf_folder.write(base_folder, run, params, run.student.config)

    def write_more(new):
      model_card.write_notice(run.student.config, new)
      path = os.path.join(new, provenance.FILE)
      provenance.write(path, claims, 'float32', os.listdir(new))

    peft.write(folder, weights.params, module, base_folder, write_more)
    _say_written(folder)

  return write


def _base_folder(run) -> str:
  """Returns the folder of the adapters' base model; '' if there is none."""
  if run.student.keep_layers or run.student.prune is not None:
    return ''
  spec = run.config.student
  if spec.init == 'teacher':
    spec = run.config.teacher
  kind, _, place = spec.init.partition(':')
  return os.path.abspath(paths.expand(place)) if kind == 'hf' else ''


def _say_written(folder: str) -> None:
  if jax.process_index() == 0:
    session.say(f'wrote {folder}: {", ".join(sorted(os.listdir(folder)))}')


FORMATS = {'peft': _peft, 'hf': _hf, 'gguf': _gguf}
