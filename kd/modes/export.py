"""Writes the student for other systems: config, weights, tokenizer."""

from collections.abc import Callable
import os
from typing import Any

import jax
import ml_collections

from kd.checkpoints import gguf_writer
from kd.checkpoints import huggingface
from kd.core import atomic_files
from kd.core import types
from kd.input_pipeline import gguf_tokenizers
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.models import families
from kd.run import model_card
from kd.run import outputs
from kd.run import provenance
from kd.run import resolved
from kd.run import session
from kd.teachers import param_digest

# Writes files of parameters about which the claims are made, and their card.
Write = Callable[[types.PyTree, dict[str, Any], str], None]


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes <workdir>/export/hf and <workdir>/export/gguf: export.formats."""
  run = session.open_trained(config, workdir)
  # All are asked before the weights are read, which may take minutes.
  writers = [
    FORMATS[name](run, workdir)
    for name in dict.fromkeys(run.config.export.formats)
  ]
  params = outputs.student_params(run, workdir)
  # Asked of all processes: each holds a part of the parameters.
  weights = param_digest.of(params)
  claims, result = provenance.collect(run, workdir, weights)
  has_turns = templates.has_turns(run.config.data.template)
  card = model_card.text(run, workdir, claims, result, has_turns)
  for write in writers:
    write(params, claims, card)


def _hf(run: resolved.Run, workdir: str) -> Write:
  """Returns what writes the Hugging Face folder."""
  folder = os.path.join(workdir, 'export', 'hf')
  tokenizer, template = run.tokenizer, run.config.data.template
  hf_tokenizer.check(tokenizer, 'data.tokenizer')
  dtype = run.config.export.dtype

  def write_more(new, claims, card):
    hf_tokenizer.write(tokenizer, new, templates.TEMPLATES[template].jinja)
    atomic_files.write_text(os.path.join(new, model_card.FILE), card)
    model_card.write_notice(run.student.config, new)
    path = os.path.join(new, provenance.FILE)
    provenance.write(path, claims, dtype, os.listdir(new))

  def write(params, claims, card):
    huggingface.write(
      folder,
      params,
      run.student.config,
      dtype,
      tokenizer.bos_id,
      tokenizer.stop_ids,
      tokenizer.pad_id,
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
  """Returns what writes a GGUF file for each type."""
  c, config = run.config.export, run.student.config
  folder = os.path.join(workdir, 'export', 'gguf')
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
  metadata = {'general.name': model_card.name(workdir), **metadata}

  def write(params, claims, card):
    del card  # It says how transformers loads the model.
    # Metrics are of the parameters, not of these weights.
    claims = claims | {'evaluation': None}
    is_first = jax.process_index() == 0
    if is_first:
      os.makedirs(folder, exist_ok=True)
      model_card.write_notice(config, folder)
    for kind, table_kind in kinds.items():
      name = f'model-{kind}.gguf'
      path = os.path.join(folder, name)
      gguf_writer.write(path, params, config, kind, table_kind, metadata)
      if is_first:
        provenance.write(f'{path}.{provenance.FILE}', claims, kind, [name])
    note = families.of(config).gguf_note(config)
    if note:
      session.say(f'note: {note}')
    _say_written(folder)

  return write


def _say_written(folder: str) -> None:
  if jax.process_index() == 0:
    session.say(f'wrote {folder}: {", ".join(sorted(os.listdir(folder)))}')


FORMATS = {'hf': _hf, 'gguf': _gguf}
