"""Fields of what brings a model into production: its registry."""

from kd.config import legal
from kd.config import places
from kd.config import schema

F = schema.Field

REGISTRY = schema.Section(
  'Versions of a model (`kd registry`, docs/versions.md).',
  {
    'folder': F(
      'kd-registry', places.Path('folder', in_bucket=True), 'where they are'
    ),
    'admit': F(
      ('ship',),
      legal.Tuple(
        legal.one_of('ship', 'not distinguishable', 'worse'), least=1
      ),
      'verdicts of a benchmark with which a version is promoted',
    ),
    'compatible': F(
      ('tokenizer', 'template', 'context'),
      legal.Tuple(legal.one_of('tokenizer', 'template', 'context')),
      'what a version must share with the one in production; context: it has '
      'at least as many positions',
    ),
    'keep': F(3, legal.COUNT, 'latest candidates that prune keeps'),
  },
)
