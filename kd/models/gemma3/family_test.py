import dataclasses

from kd.models import families
from kd.models.gemma3 import config as gemma3_config

_CONFIG = dataclasses.replace(
  families.variant('nano', 'variant'),
  layer_kinds=gemma3_config.published_kinds(14),
)


def _warning(layers, source=None):
  return families.of(_CONFIG).export_warning(
    _CONFIG.keep_layers(layers), source
  )


def test_export_warnings_name_programs_that_cannot_load():
  assert _warning(range(14)) == ''
  text = _warning((0, 5, 6))
  assert 'lgl' in text and 'llama.cpp' in text and 'transformers' in text


def test_export_warnings_propose_layers_that_fit():
  text = _warning((0, 5, 6), _CONFIG)
  assert text.endswith("--config.student.keep_layers='(0, 4, 9)'")
  one = _warning((5,), _CONFIG)
  assert one.endswith("--config.student.keep_layers='(0,)'")
  # Without local layers in the source there is no such selection.
  odd = dataclasses.replace(_CONFIG, layer_kinds=('global',) * 3)
  text = families.of(odd).export_warning(odd.keep_layers((0,)), odd)
  assert 'keep_layers' not in text
