"""Writes docs/config.md: python -m kd.config.page > docs/config.md"""

from collections.abc import Iterator, Mapping
import sys
from typing import Any

from kd.config import base
from kd.config import schema

_INTRO = """# Fields of a config

Generated from `kd/config/fields` by `python -m kd.config.page`.

A config is a Python file whose `get_config()` starts from
`kd.config.base.get_config()` and changes fields. The command line changes them
too: `--config.data.length=512`. `--mode=check` refuses an illegal value by its
field's name and says what is legal.

A part with a `name` (a loss, a schedule, an optimizer, a cache method) has the
arguments of that name. Changing the name on the command line brings the
defaults of the new name; its arguments can then be set too, in any order:
`--config.losses.kl.name=jensen_shannon --config.losses.kl.beta=0.3`. A number
that may be a schedule becomes one in the same way:
`--config.losses.kl.weight.name=linear`, with the schedule's arguments.
`--config.evaluation.sets={}` empties a part whose entries have names of your
choice.

The modules of `plugins` may register more names (losses, optimizers, schedules,
sources of targets, chat templates and others), with arguments of their own:
[extend.md](extend.md). They are legal where the names below are.
"""


def page() -> str:
  """Returns the page."""
  return '\n'.join([_INTRO, *_section('', base.ROOT), *_schedules()])


def _section(path, node) -> Iterator[str]:
  """Yields the lines of a part, followed by those of its parts."""
  if isinstance(node, schema.Entries):
    yield from _heading(f'{path}.NAME', f'{node.doc} {node.entry.doc}')
    yield from _body(f'{path}.NAME', node.entry)
    return
  yield from _heading(path or 'Top level', node.doc)
  yield from _body(path, node)


def _heading(title, doc):
  yield f'## {title}'
  yield doc
  yield ''


def _body(path, node):
  if isinstance(node, schema.Choice):
    yield from _options(node)
  else:
    yield from _table(node.children)
  parts = node.common if isinstance(node, schema.Choice) else node.children
  for key, child in parts.items():
    if not isinstance(child, schema.Field):
      yield from _section(schema.join(path, key), child)


def _options(choice):
  if choice.common:
    yield 'Common to all names:'
    yield ''
    yield from _table(choice.common)
  for names, fields in _by_fields(choice):
    listed = ', '.join(f'`{name}`' for name in names)
    docs = '; '.join(choice.docs[n] for n in names if n in choice.docs)
    yield f'{listed}{": " + docs if docs else ""}'
    yield ''
    yield from _table(fields)


def _by_fields(choice):
  """Yields the options, grouped by equal fields."""
  groups: list[tuple[list[str], Mapping[str, Any]]] = []
  for name, fields in choice.options.items():
    same = [names for names, other in groups if other == fields]
    if same:
      same[0].append(name)
    else:
      groups.append(([name], fields))
  return groups


def _table(children):
  fields = {k: f for k, f in children.items() if isinstance(f, schema.Field)}
  if not fields:
    return
  yield '| field | default | legal | meaning |'
  yield '| --- | --- | --- | --- |'
  for key, field in fields.items():
    default = '' if field.default is schema.REQUIRED else f'`{field.default!r}`'
    cells = (f'`{key}`', default, field.legal.text, field.doc)
    yield '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'
  yield ''


def _schedules():
  yield from _heading('Schedules', schema.SCHEDULES.doc)
  yield from _options(schema.SCHEDULES)


if __name__ == '__main__':
  sys.stdout.write(page())
