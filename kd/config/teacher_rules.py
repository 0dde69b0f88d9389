"""Rules between fields of the teacher; see rules.py."""

from collections.abc import Callable
from typing import Any

from kd.config import legal
from kd.config import schema
from kd.config import teacher_sections
from kd.config.fields import models
from kd.core import errors

# Values of teacher.source with which teachers are loaded, at least for a cache.
_LOADED = ('live', 'on_policy', 'cached')


def others_need_a_teacher(config: Any) -> None:
  """Forbids other teachers in a run without a teacher."""
  if config.teacher.source == 'none' and config.teacher.others:
    names = ', '.join(config.teacher.others)
    raise errors.ConfigError(
      'teacher.others',
      f"found {names}, and teacher.source is 'none'",
      legal="{}, or teacher.source 'live', 'cached' or 'on_policy'",
    )


def one_place_of_the_teacher(config: Any) -> None:
  """Forbids loading the teacher here if it is on a server."""
  url, source = config.teacher.server.url, config.teacher.source
  if config.reasoning.model == 'server':
    return  # The server's model solves problems and is not a teacher.
  if url and source in ('live', 'on_policy'):
    raise errors.ConfigError(
      'teacher.server.url',
      f'found {url!r}, and teacher.source is {source!r}',
      legal="'', or teacher.source 'server', 'on_policy_server' or 'cached'",
    )


def own_tokenizer_is_live(config: Any) -> None:
  """Requires a teacher with its own tokenizer to be live and the only one."""
  teacher = config.teacher
  if teacher.tokenizer == 'shared':
    for field in ('template', 'length'):
      if teacher[field] and not (field == 'length' and teacher.prefix):
        raise errors.ConfigError(
          f'teacher.{field}',
          f"found {teacher[field]!r}, and teacher.tokenizer is 'shared'",
          legal=f'{schema.defaults(models.TEACHER)[field]!r}, or '
          "teacher.tokenizer 'own'"
          + (', or a teacher.prefix' if field == 'length' else ''),
        )
    return
  conflicts = {
    'teacher.source': (teacher.source, ('live', 'on_policy')),
    'teacher.others': (tuple(teacher.others), ((),)),
  }
  for path, (value, allowed) in conflicts.items():
    if value not in allowed:
      raise errors.ConfigError(
        path,
        f"found {value!r}, and teacher.tokenizer is 'own'",
        legal=', '.join(map(repr, allowed)),
      )
  if config.student.init == 'teacher':
    raise errors.ConfigError(
      'student.init',
      "found 'teacher', and teacher.tokenizer is 'own': the student's ids are "
      'not those of its weights',
      legal='random, hf:DIR, gguf:FILE, workdir:DIR',
    )


def routes_have_examples(config: Any) -> None:
  """Requires teachers that divide the examples to be loaded."""
  teacher = config.teacher
  specs = teacher_sections.of(config)
  for path, spec in specs.items():
    for name in ('tasks', 'field_values'):
      if spec[name] and teacher.source not in _LOADED:
        raise errors.ConfigError(
          f'{path}.{name}',
          f'found {legal.shown(spec[name])}, and teacher.source is '
          f'{teacher.source!r}',
          legal=f'(), or teacher.source {", ".join(map(repr, _LOADED))}',
        )
    if (spec['tasks'] or spec['field_values']) and 'teacher' in teacher.others:
      raise errors.ConfigError(
        'teacher.others',
        "found 'teacher', the name of the first teacher in metrics",
        legal='another name',
      )
    if spec['field_values'] and not teacher.field:
      raise errors.ConfigError(
        'teacher.field',
        f"found '', and {path}.field_values is "
        f'{legal.shown(spec["field_values"])}',
        legal=f'the field that has these values, or {path}.field_values=()',
      )
  if teacher.field and not any(spec['field_values'] for spec in specs.values()):
    raise errors.ConfigError(
      'teacher.field',
      f'found {legal.shown(teacher.field)}, and no teacher has `field_values`',
      legal="'', or teacher.field_values with the values that select a teacher",
    )


RULES: tuple[Callable[[Any], None], ...] = (
  others_need_a_teacher,
  one_place_of_the_teacher,
  own_tokenizer_is_live,
  routes_have_examples,
)
