"""Terms that compare layers: hidden states, attention maps and relations."""

from collections.abc import Sequence
import functools
import operator

import jax
import jax.numpy as jnp

from kd.core import attention_mask
from kd.core import errors
from kd.core import types
from kd.losses import attention_maps as maps_lib
from kd.losses import hidden_states as hidden_states_lib
from kd.losses import layer_maps
from kd.losses import terms

_FIXED = {'uniform': layer_maps.uniform, 'last': layer_maps.last}
_ADAPTIVE = 'adaptive'
SIMILARITIES = ('states', 'attention')
_BLOCK = 512  # Queries whose maps are computed at a time to choose layers.
_RELATIONS = ('query', 'key', 'value')
_TOWER, _SOFT_TOKENS = 'tower', 'soft_tokens'
# Field of Taps by value of `states`.
STATES = {'layers': 'hidden', _TOWER: 'tower', _SOFT_TOKENS: 'soft_tokens'}


def _check(value, name, legal):
  if value not in legal:
    raise errors.unknown(name, name, value, list(legal))


def _need_teacher(context):
  # Fail here: sizes are read before term_builder.build checks for a teacher.
  if context.teacher is None:
    raise errors.ConfigError('name', 'needs a teacher, but none is configured')


def _pairs(context, layer_map, pairs, field='layers'):
  """Returns the student layers and the teacher layers of a fixed map."""
  _check(layer_map, 'map', _FIXED)
  sizes = getattr(context.student, field), getattr(context.teacher, field)
  return tuple(zip(*_FIXED[layer_map](*sizes, pairs, 'pairs'), strict=True))


@terms.TERMS.register('hidden_states')
def hidden_states(
  context: terms.Context,
  *,
  states: str,
  kind: str,
  map: str,
  pairs: int,
  remap_every: int,
  similarity: str,
  norm: bool,
  dropout: float,
  part: str,
) -> terms.LayerLoss:
  """Builds the loss of projected hidden states (arXiv 1412.6550, 1909.10351).

  With map 'adaptive' each student layer is compared with the most similar
  teacher layer, by hidden states or by attention. The map is recomputed every
  `remap_every` updates.
  """
  _need_teacher(context)
  terms.check_part(part, of_layers=True)
  _check(kind, 'kind', hidden_states_lib.KINDS)
  _check(map, 'map', (*_FIXED, _ADAPTIVE))
  if not 0 <= dropout < 1:
    raise errors.ConfigError('dropout', f'found {dropout}', legal='[0, 1)')
  if (map == _ADAPTIVE) != (remap_every > 0):
    raise errors.ConfigError(
      'remap_every',
      f'found {remap_every} with map {map!r}',
      legal="above 0 with map 'adaptive', else 0",
    )
  _check(similarity, 'similarity', SIMILARITIES)
  by_attention = similarity == 'attention'
  if by_attention and map != _ADAPTIVE:
    raise errors.ConfigError(
      'similarity',
      f"found 'attention' with map {map!r}, which is not adaptive",
      legal="'states', or map 'adaptive'",
    )
  _check_states(states, map, pairs, part, context)
  widths = _widths(states, context)
  first = 'uniform' if map == _ADAPTIVE else map
  student_layers, teacher_layers = _compared(states, context, first, pairs)
  layer_map = None
  if map == _ADAPTIVE:
    layer_map = teacher_layers
    teacher_layers = tuple(range(context.teacher.layers))
  measure = _similarity_of_states
  if by_attention:
    measure = functools.partial(
      _similarity_of_attention, context, student_layers
    )

  def init(rng: types.Array) -> types.PyTree:
    keys = jax.random.split(rng, pairs)
    return jax.vmap(
      lambda key: hidden_states_lib.init_projection(key, *widths, norm)
    )(keys)

  def per_token(projections, student, teacher, batch, values, chosen, rng):
    del batch, values
    own, other = (getattr(x, STATES[states]) for x in (student, teacher))
    return hidden_states_lib.layers_loss(
      kind,
      projections,
      own,
      other if chosen is None else other[chosen],
      dropout,
      rng if dropout else None,
    )

  return terms.LayerLoss(
    per_token,
    part=part,
    values={},
    student_hidden=student_layers if states == 'layers' else (),
    teacher_hidden=teacher_layers if states == 'layers' else (),
    student_tower=student_layers if states == _TOWER else (),
    teacher_tower=teacher_layers if states == _TOWER else (),
    soft_tokens=states == _SOFT_TOKENS,
    student_attention=student_layers if by_attention else (),
    teacher_attention=teacher_layers if by_attention else (),
    init=init,
    layer_map=layer_map,
    remap_every=remap_every,
    similarity=measure if map == _ADAPTIVE else None,
  )


def _check_states(states, layer_map, pairs, part, context):
  """Raises ConfigError unless these states can be compared."""
  _check(states, 'states', STATES)
  if states == 'layers':
    return
  for side in ('student', 'teacher'):
    if not getattr(context, side).tower_layers:
      raise errors.ConfigError(
        'states',
        f'found {states!r}, but the {side} has no vision tower',
        legal='layers',
      )
  if part != terms.IMAGE:
    raise errors.ConfigError(
      'part', f'found {part!r} with states {states!r}', legal=repr(terms.IMAGE)
    )
  if layer_map == _ADAPTIVE:
    raise errors.ConfigError(
      'map', f"found 'adaptive' with states {states!r}", legal=', '.join(_FIXED)
    )
  if states == _SOFT_TOKENS and pairs != 1:
    raise errors.ConfigError(
      'pairs', f'found {pairs} with states {states!r}', legal='1'
    )


def _widths(states, context):
  """Returns the widths of the student's and of the teacher's states."""
  field = 'tower_width' if states == _TOWER else 'width'
  return getattr(context.student, field), getattr(context.teacher, field)


def _compared(states, context, layer_map, pairs):
  """Returns the layers that a fixed map compares; none for soft tokens."""
  if states == _SOFT_TOKENS:
    return (), ()
  return _pairs(
    context,
    layer_map,
    pairs,
    'tower_layers' if states == _TOWER else 'layers',
  )


def _similarity_of_states(student, teacher, batch):
  """Returns layer_maps.similarity of hidden states, [n, m]."""
  return layer_maps.similarity(student.hidden, teacher.hidden, batch.weights)


def _similarity_of_attention(context, layers, student, teacher, batch):
  """Returns the mean cosine of the layers' attention over target tokens.

  Maps are averaged over heads. A local and a global layer are compared within
  the window of the local one.

  Args:
    context: the models' sizes.
    layers: the student's n layers.
    student: the Taps of these layers.
    teacher: the Taps of all m layers of the teacher.
    batch: the rows.

  Returns:
    float32 [n, m].
  """
  counted = batch.weights > 0
  total = jnp.maximum(jnp.sum(batch.weights * counted), 1e-30)

  def similarity(own, window, query, key):
    losses = maps_lib.map_loss(
      own,
      maps_lib.Heads(query, key, context.teacher.attention_scale),
      _positions(batch, context.student.image_tokens),
      window=window,
      temperature=1.0,
      heads='mean',
      block=_BLOCK,
      image_tokens=context.student.image_tokens,
      distance='cosine',
    )
    cosines = jnp.where(counted, (1.0 - losses) * batch.weights, 0.0)
    return jnp.sum(cosines) / total

  def row(number, layer):
    own = maps_lib.Heads(
      student.query[number],
      student.key[number],
      context.student.attention_scale,
    )
    values = [None] * context.teacher.layers
    # One loop for all layers with the same window.
    for window in dict.fromkeys(context.teacher.windows):
      same = [i for i, w in enumerate(context.teacher.windows) if w == window]
      both = _window(context.student.windows[layer], window)
      chosen = jax.lax.map(
        lambda arrays, both=both: similarity(own, both, *arrays),
        (teacher.query[jnp.array(same)], teacher.key[jnp.array(same)]),
      )
      for i, value in zip(same, chosen, strict=True):
        values[i] = value
    return jnp.stack(values)

  return jnp.stack([row(*pair) for pair in enumerate(layers)])


def _positions(batch, image_tokens):
  """Returns the inputs of masks; an image has `image_tokens` tokens."""
  image_ids = None
  if batch.images is not None and image_tokens:
    image_ids = batch.images.ids(image_tokens)
  return attention_mask.Positions(batch.positions, batch.segment_ids, image_ids)


def _window(*windows):
  """Returns the smallest window; None if all layers are global."""
  return min((w for w in windows if w is not None), default=None)


def _attention_term(context, layers, part, temperature, pair_loss):
  """Builds a term that averages an attention loss over layer pairs."""
  terms.check_part(part, of_layers=True)

  windows = [
    _window(context.student.windows[i], context.teacher.windows[j])
    for i, j in zip(*layers, strict=True)
  ]

  def per_token(projections, student, teacher, batch, values, chosen, rng):
    del projections, chosen, rng
    total = 0.0
    for number, pair_window in enumerate(windows):
      of_pair = functools.partial(jax.tree.map, operator.itemgetter(number))
      total += pair_loss(
        of_pair(student),
        of_pair(teacher),
        batch,
        pair_window,
        values['temperature'],
      )
    return total / len(windows)

  return terms.LayerLoss(
    per_token,
    part=part,
    values={
      'temperature': terms.positive(temperature, 'temperature', context.steps)
    },
    student_hidden=(),
    teacher_hidden=(),
    student_attention=layers[0],
    teacher_attention=layers[1],
    init=lambda rng: {},
    layer_map=None,
    remap_every=0,
    similarity=None,
  )


def _check_block(block):
  if block < 1:
    raise errors.ConfigError('block', f'found {block}', legal='1 or more')


@terms.TERMS.register('attention_maps')
def attention_maps(
  context: terms.Context,
  *,
  distance: str,
  map: str,
  pairs: int,
  heads: str,
  temperature: float,
  block: int,
  part: str,
) -> terms.LayerLoss:
  """Builds the distance of attention maps (after arXiv 1909.10351).

  Maps are compared head by head, or averaged over heads first.
  """
  _need_teacher(context)
  _check(distance, 'distance', maps_lib.DISTANCES)
  _check_block(block)
  student, teacher = context.student, context.teacher
  maps_lib.check_heads(heads, student.heads, teacher.heads, 'heads')

  def pair_loss(student_taps, teacher_taps, batch, window, t):
    side = lambda taps, sizes: maps_lib.Heads(
      taps.query, taps.key, sizes.attention_scale
    )
    return maps_lib.map_loss(
      side(student_taps, student),
      side(teacher_taps, teacher),
      _positions(batch, student.image_tokens),
      window=window,
      temperature=t,
      heads=heads,
      block=block,
      image_tokens=student.image_tokens,
      distance=distance,
    )

  layers = _pairs(context, map, pairs)
  return _attention_term(context, layers, part, temperature, pair_loss)


def _relation_width(sizes, name):
  heads = sizes.heads if name == 'query' else sizes.kv_heads
  return heads * sizes.head_width


@terms.TERMS.register('attention_relations')
def attention_relations(
  context: terms.Context,
  *,
  map: str,
  pairs: int,
  of: Sequence[str],
  relation_heads: int,
  temperature: float,
  block: int,
  part: str,
) -> terms.LayerLoss:
  """Builds the KL of query, key and value relations (arXiv 2012.15828)."""
  _need_teacher(context)
  _check_block(block)
  if not of:
    raise errors.ConfigError('of', 'found none', legal=', '.join(_RELATIONS))
  for name in of:
    _check(name, 'of', _RELATIONS)
    maps_lib.check_relation_heads(
      relation_heads,
      _relation_width(context.student, name),
      _relation_width(context.teacher, name),
      'relation_heads',
    )

  def pair_loss(student_taps, teacher_taps, batch, window, t):
    losses = [
      maps_lib.relation_loss(
        getattr(student_taps, name),
        getattr(teacher_taps, name),
        _positions(batch, context.student.image_tokens),
        relation_heads=relation_heads,
        window=window,
        temperature=t,
        block=block,
        image_tokens=context.student.image_tokens,
      )
      for name in of
    ]
    return sum(losses) / len(losses)

  layers = _pairs(context, map, pairs)
  return _attention_term(context, layers, part, temperature, pair_loss)
