"""Draws scenes of a few shapes with questions about them.

A scene is a grid of 3 x 3 cells, one to three of which contain a circle, square
or triangle in one of four colors. Shapes vary slightly in place, size and
shade, so no two pictures are equal. One in ten arrangements of shapes, colors
and cells is held out, by its hash.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import io
import random

SIZE = 56  # Side of a picture in pixels.
SHAPES = ('circle', 'square', 'triangle')
COLORS = {
  'red': (208, 48, 48),
  'green': (48, 160, 72),
  'blue': (56, 88, 208),
  'yellow': (224, 184, 40),
}
PLACES = (
  *('top left', 'top', 'top right'),
  *('left', 'center', 'right'),
  *('bottom left', 'bottom', 'bottom right'),
)
NOTHING = 'nothing'
HELD_OUT = 10  # One in this many arrangements is held out.
_MOST = 3  # Maximum number of shapes in a scene.
_BACKGROUND = (240, 240, 236)
_CELL = SIZE / 3
_FINER = 4  # Scale at which scenes are drawn, so that edges are smooth.
_SHADE = 24  # Largest change of a color channel.


@dataclasses.dataclass(frozen=True)
class Item:
  """One shape of a scene.

  Attributes:
    place: index in PLACES.
    shape: one of SHAPES.
    color: a key of COLORS.
    rgb: color values of its shade, each from 0 to 255.
    center: position (x, y) of its center, in pixels.
    radius: half of its width, in pixels.
  """

  place: int
  shape: str
  color: str
  rgb: tuple[int, int, int]
  center: tuple[float, float]
  radius: float

  @property
  def name(self) -> str:
    return f'{self.color} {self.shape}'


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a scene.

  Attributes:
    text: text of the question.
    answer: the right answer.
    choices: possible answers to such a question.
  """

  text: str
  answer: str
  choices: tuple[str, ...]

  def wrong_answer(self, rng: random.Random) -> str:
    """Returns another of the choices."""
    return rng.choice([c for c in self.choices if c != self.answer])


def draw_scene(rng: random.Random) -> list[Item]:
  """Returns the shapes of a random scene, in the order of their places."""
  places = rng.sample(range(len(PLACES)), rng.randint(1, _MOST))
  return [_item(rng, place) for place in sorted(places)]


def split_of(items: Sequence[Item]) -> str:
  """Returns the split of an arrangement: train or validation."""
  named = ', '.join(f'{item.name} {item.place}' for item in items)
  digest = hashlib.sha256(named.encode()).digest()
  held_out = int.from_bytes(digest[:8], 'big') % HELD_OUT == 0
  return 'validation' if held_out else 'train'


def _item(rng, place):
  color = rng.choice(list(COLORS))
  row, column = divmod(place, 3)
  shade = rng.randint(-_SHADE, _SHADE)
  return Item(
    place=place,
    shape=rng.choice(SHAPES),
    color=color,
    rgb=tuple(min(max(value + shade, 0), 255) for value in COLORS[color]),
    center=tuple(
      (cell + 0.5) * _CELL + rng.uniform(-1.5, 1.5) for cell in (column, row)
    ),
    radius=rng.uniform(5.5, 7.5),
  )


def png(items: Sequence[Item]) -> bytes:
  """Returns the picture of a scene as a PNG file."""
  from PIL import Image
  from PIL import ImageDraw

  image = Image.new('RGB', (SIZE * _FINER,) * 2, _BACKGROUND)
  pen = ImageDraw.Draw(image)
  for item in items:
    x, y, r = (_FINER * value for value in (*item.center, item.radius))
    left, top = x - r, y - r
    right, bottom = x + r - 1, y + r - 1  # Pillow draws the last pixel too.
    if item.shape == 'circle':
      pen.ellipse((left, top, right, bottom), item.rgb)
    elif item.shape == 'square':
      pen.rectangle((left, top, right, bottom), item.rgb)
    else:
      pen.polygon(((x, top), (right, bottom), (left, bottom)), item.rgb)
  file = io.BytesIO()
  image.resize((SIZE, SIZE), Image.Resampling.BOX).save(file, 'png')
  return file.getvalue()


def ask(items: Sequence[Item], rng: random.Random) -> Question:
  """Returns a random question; half of them ask for all shapes.

  The place of a shape is only asked if the shape is unique in the scene.
  """
  if rng.random() < 0.5:
    return _describe(items, rng)
  kinds = [_count_shapes, _count_colors, _what]
  names = [item.name for item in items]
  single = [item for item in items if names.count(item.name) == 1]
  if single:
    kinds.append(lambda items, rng: _where(rng.choice(single)))
  return rng.choice(kinds)(items, rng)


def _describe(items, rng):
  # A wrong answer describes another scene with the same number of shapes.
  other = draw_scene(rng)
  while len(other) != len(items):
    other = draw_scene(rng)
  right, wrong = map(_description, (items, other))
  if wrong == right:  # The same by chance: move its first shape.
    empty = next(i for i in range(9) if all(i != x.place for x in items))
    wrong = _description(
      [dataclasses.replace(items[0], place=empty), *items[1:]]
    )
  return Question('What is there?', right, (right, wrong))


def _description(items):
  return ', '.join(f'{item.name} {PLACES[item.place]}' for item in items)


_COUNTS = tuple(map(str, range(_MOST + 1)))


def _count_shapes(items, rng):
  # Half of the questions use a shape of the scene: else most answers were 0.
  pool = [item.shape for item in items] if rng.random() < 0.5 else SHAPES
  shape = rng.choice(pool)
  count = sum(item.shape == shape for item in items)
  return Question(f'How many {shape}s?', str(count), _COUNTS)


def _count_colors(items, rng):
  pool = list(COLORS)
  if rng.random() < 0.5:
    pool = [item.color for item in items]
  color = rng.choice(pool)
  count = sum(item.color == color for item in items)
  return Question(f'How many {color} shapes?', str(count), _COUNTS)


def _what(items, rng):
  by_place = {item.place: item.name for item in items}
  place = rng.randrange(len(PLACES))
  if rng.random() < 0.7:  # Otherwise most answers would be NOTHING.
    place = rng.choice(list(by_place))
  choices = tuple(f'{color} {shape}' for color in COLORS for shape in SHAPES)
  return Question(
    f'What is at the {PLACES[place]}?',
    by_place.get(place, NOTHING),
    (*choices, NOTHING),
  )


def _where(item):
  return Question(f'Where is the {item.name}?', PLACES[item.place], PLACES)


def generate(
  split: str, count: int, noise: float, seed: int
) -> Iterator[tuple[bytes, Question, str]]:
  """Generates scenes, each with a question and its label.

  Args:
    split: 'train' or 'validation'; they share no arrangement of shapes.
    count: number of scenes.
    noise: probability that a label is a wrong answer.
    seed: seed of the scenes and labels.

  Yields:
    The picture as a PNG file, the question, and the label.
  """
  rng = random.Random(f'{split}:{seed}')
  # A separate generator, so that the scenes do not depend on the noise.
  slips = random.Random(f'{split}:{seed}:labels')
  for _ in range(count):
    items = draw_scene(rng)
    while split_of(items) != split:
      items = draw_scene(rng)
    question = ask(items, rng)
    label = question.answer
    if slips.random() < noise:
      label = question.wrong_answer(slips)
    yield png(items), question, label
