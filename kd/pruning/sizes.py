"""The sizes requested by `student.prune` and their limits."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from kd.core import errors
from kd.models import families
from kd.models import family

PATH = 'student.prune'
SCORES = f'{PATH}.scores'
LAYERS, MLP_DIM = 'layers', 'mlp_dim'
NUM_HEADS, EMBED_DIM = 'num_heads', 'embed_dim'
SIZES = (LAYERS, MLP_DIM, NUM_HEADS, EMBED_DIM)

PERIODIC, ANY = 'periodic', 'any'
PATTERNS = (PERIODIC, ANY)

# Block sizes of GGUF files: values of a matrix row that share a scale.
_Q4_0_BLOCK, _K_QUANTS_BLOCK = 32, 256
# Largest share of the parameters to remove in one step of pruning, following
# Minitron (arXiv 2408.11796).
_MOST_REMOVED = 1 / 3


@dataclasses.dataclass(frozen=True)
class Request:
  """The sizes to keep, as in `student.prune`.

  Attributes:
    layers: number of layers; 0: all, here and below.
    mlp_dim: F, channels of each MLP.
    num_heads: N, query heads of each layer.
    embed_dim: D, channels of the embedding.
    layer_pattern: PERIODIC or ANY; see the config field.
    head_score: one of selection.HEAD_SCORES.
    scores: path of the importance scores; '' if there are none yet.
  """

  layers: int
  mlp_dim: int
  num_heads: int
  embed_dim: int
  layer_pattern: str
  head_score: str
  scores: str

  @property
  def sizes(self) -> dict[str, int]:
    """Returns the sizes that are not 0, by config path."""
    values = {f'{PATH}.{name}': getattr(self, name) for name in SIZES}
    return {path: value for path, value in values.items() if value}

  def widths(self, config: family.Config) -> dict[str, int]:
    """Returns D, F and N by name."""
    return {
      name: getattr(self, name) or getattr(config, name)
      for name in (EMBED_DIM, MLP_DIM, NUM_HEADS)
    }


def request(spec: Mapping[str, Any]) -> Request | None:
  """Returns the request in a config's `student.prune`; None if it is empty."""
  if not any(spec[name] for name in SIZES):
    return None
  return Request(**{f.name: spec[f.name] for f in dataclasses.fields(Request)})


def kept_kinds(
  request: Request, source: family.Config
) -> tuple[str, ...] | None:
  """Returns the kinds of the layers to keep; None if the scores decide.

  Args:
    request: the sizes to keep.
    source: the model to prune.
  """
  if not request.layers:
    return source.layer_kinds
  same = len(set(source.layer_kinds)) == 1
  if request.layer_pattern == PERIODIC or same:
    # The kinds of the first layers, so that the pattern repeats as in `source`.
    return source.layer_kinds[: request.layers]
  return None


def pruned(
  request: Request, source: family.Config, layers: Sequence[int]
) -> family.Config:
  """Returns the config of the pruned model.

  Args:
    request: the sizes to keep, already checked by `check`.
    source: the model to prune.
    layers: indices of the kept layers.
  """
  return source.keep_layers(layers).with_widths(**request.widths(source))


def check(request: Request, source: family.Config) -> None:
  """Checks the requested sizes against the model to prune.

  Raises:
    ConfigError: a size is larger than the model's, the KV heads do not divide
      the query heads, transformers would reject the result, or nothing would be
      removed.
  """
  there = {
    LAYERS: source.num_layers,
    **{name: getattr(source, name) for name in SIZES[1:]},
  }
  for name, most in there.items():
    if getattr(request, name) > most:
      raise errors.ConfigError(
        f'{PATH}.{name}',
        f'found {getattr(request, name)}, but the model has {most}',
        legal=f'1 to {most}, or 0 for all',
      )
  if all(getattr(request, n) in (0, most) for n, most in there.items()):
    sizes = ', '.join(f'{name} {most}' for name, most in there.items())
    raise errors.ConfigError(
      PATH,
      f'removes nothing: the model has {sizes}',
      legal='smaller sizes',
    )
  groups = source.num_kv_heads
  if request.num_heads % groups:
    raise errors.ConfigError(
      f'{PATH}.{NUM_HEADS}',
      f'found {request.num_heads}: key and value heads are kept, and each of '
      f'the {groups} needs the same number of query heads',
      legal=_legal_heads(request, source),
    )
  config = pruned(request, source, range(source.num_layers))
  problem = families.of(config).hf_problem(config)
  if problem and not families.of(source).hf_problem(source):
    is_head = request.num_heads and _legal_heads(request, source)
    raise errors.ConfigError(
      f'{PATH}.{NUM_HEADS if is_head else EMBED_DIM}',
      f'transformers refuses the pruned model: {problem}',
      legal=is_head or f'a multiple of {config.num_heads}',
    )


def _legal_heads(request, source):
  """Returns the legal numbers of query heads as text."""
  step = source.num_kv_heads

  def is_legal(count):
    widths = {**request.widths(source), NUM_HEADS: count}
    config = source.with_widths(**widths)
    return not families.of(config).hf_problem(config)

  counts = filter(is_legal, range(step, source.num_heads + 1, step))
  return ', '.join(map(str, counts))


def warnings(source: family.Config, config: family.Config) -> list[str]:
  """Returns warnings about legal sizes with disadvantages.

  Args:
    source: the model to prune.
    config: the pruned model.
  """
  lines = []
  for name in (MLP_DIM, EMBED_DIM):
    size, before = getattr(config, name), getattr(source, name)
    for block, kind in (
      (_Q4_0_BLOCK, 'Q4_0 and Q8_0'),
      (_K_QUANTS_BLOCK, 'K-quants'),
    ):
      if size % block and not before % block:
        lines.append(
          f'{PATH}.{name}: {size} is not a multiple of {block}: GGUF files '
          f'cannot store those matrices in {kind}'
        )
  if source.num_kv_heads == 1 and config.num_heads < source.num_heads:
    lines.append(
      f'{PATH}.{NUM_HEADS}: the model has a single key and value head, which '
      'is kept: only the query and out projections get smaller'
    )
  problem = families.of(source).hf_problem(source)
  if problem:
    lines.append(f'transformers refuses the model to prune: {problem}')
  removed = 1 - non_embedding(config) / non_embedding(source)
  if removed > _MOST_REMOVED:
    lines.append(
      f'{removed:.0%} of the parameters outside the embedding are removed at '
      'once: removing at most a third at a time, with distillation in between, '
      'preserves more quality'
    )
  return lines


def kinds_warning(config: family.Config) -> list[str]:
  """Returns a warning if some programs cannot load these layers, else []."""
  problem = families.of(config).export_warning(config, None)
  return [problem] if problem else []


def non_embedding(config: family.Config) -> int:
  """Returns the number of parameters outside the embedding and head."""
  tables = config.vocab_size * config.embed_dim * (1 if config.tied else 2)
  return config.parameter_count - tables
