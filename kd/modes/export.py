"""Writes the student for other systems: config, weights, tokenizer."""

import os

import ml_collections

from kd.checkpoints import huggingface
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.models import families
from kd.run import outputs
from kd.run import session


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes <workdir>/export/hf, which transformers and vLLM load."""
  say = session.say
  run = session.open_trained(config, workdir)
  session.check_one_process('export')
  # Before the weights are read, which may take minutes.
  hf_tokenizer.check(run.tokenizer, 'data.tokenizer')
  folder = os.path.join(workdir, 'export', 'hf')
  tokenizer, template = run.tokenizer, run.config.data.template
  huggingface.write(
    folder,
    outputs.student_params(run, workdir),
    run.student.config,
    run.config.export.dtype,
    tokenizer.bos_id,
    tokenizer.stop_ids,
    tokenizer.pad_id,
    lambda new: hf_tokenizer.write(
      tokenizer, new, templates.TEMPLATES[template].jinja
    ),
  )
  source = run.student.source if run.student.keep_layers else None
  warning = families.of(run.student.config).export_warning(
    run.student.config, source
  )
  if warning:
    say(f'warning: {warning}')
  say(f'wrote {folder}: {", ".join(sorted(os.listdir(folder)))}')
