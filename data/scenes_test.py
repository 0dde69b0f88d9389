"""Tests of scenes: their pictures, questions, splits and noisy labels."""

import io
import random

import numpy as np
from PIL import Image

from kd.data import scene_tasks
from kd.data import scenes


def _pixels(png):
  return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'), np.int32)


def test_a_cell_has_the_color_of_its_shape_and_other_cells_the_background():
  rng = random.Random(0)
  for _ in range(20):
    items = scenes.draw_scene(rng)
    pixels = _pixels(scenes.png(items))
    by_place = {item.place: item for item in items}
    for place in range(9):
      row, column = (int((x + 0.5) * scenes.SIZE / 3) for x in divmod(place, 3))
      center = pixels[row, column]
      if place not in by_place:
        assert center.min() > 230
        continue
      item = by_place[place]
      assert np.abs(center - item.rgb).max() <= 2
      near = {c: np.abs(center - v).sum() for c, v in scenes.COLORS.items()}
      assert min(near, key=near.get) == item.color


def test_shapes_fill_different_areas():
  rng = random.Random(1)
  areas = {shape: [] for shape in scenes.SHAPES}
  for _ in range(60):
    for item in scenes.draw_scene(rng):
      pixels = _pixels(scenes.png([item]))
      background = pixels[-1, -1] if item.place != 8 else pixels[0, 0]
      contrast = np.abs(background - item.rgb).sum()
      filled = np.abs(background - pixels).sum() / contrast
      areas[item.shape].append(filled / (2 * item.radius) ** 2)
  # A circle fills pi / 4 of its bounding square, a square all, a triangle half.
  for shape, fraction in zip(scenes.SHAPES, (np.pi / 4, 1, 0.5), strict=True):
    np.testing.assert_allclose(np.mean(areas[shape]), fraction, atol=0.03)


def test_answers_match_the_drawn_scene():
  rng = random.Random(2)
  kinds = set()
  for _ in range(300):
    items = scenes.draw_scene(rng)
    question = scenes.ask(items, rng)
    names = [item.name for item in items]
    kinds.add(question.text.split()[0])
    if question.text.startswith('How many'):
      word = question.text.rstrip('?').split()[2].removesuffix('s')
      assert int(question.answer) == sum(word in n.split() for n in names)
    elif question.text.startswith('Where'):
      place = scenes.PLACES.index(question.answer)
      (item,) = [item for item in items if item.place == place]
      assert question.text == f'Where is the {item.name}?'
    elif question.text == 'What is there?':
      kinds.add('all')
      said = [part.split(' ', 2) for part in question.answer.split(', ')]
      assert [(f'{color} {shape}', place) for color, shape, place in said] == [
        (item.name, scenes.PLACES[item.place]) for item in items
      ]
    else:
      place = scenes.PLACES.index(question.text[len('What is at the ') : -1])
      at = [item.name for item in items if item.place == place]
      assert question.answer == (at[0] if at else 'nothing')
    assert question.answer in question.choices
    assert question.wrong_answer(rng) != question.answer
  assert kinds == {'How', 'What', 'Where', 'all'}


def test_every_question_of_the_noisy_task_has_a_wrong_answer(monkeypatch):
  monkeypatch.setattr(scenes, 'png', lambda items: b'')
  count = scene_tasks.NOISY_SCENES
  drawn = list(scenes.generate('train', count, scene_tasks.NOISE, 0))
  assert all(len(set(question.choices)) > 1 for _, question, _ in drawn)
  wrong = sum(question.answer != label for _, question, label in drawn)
  # Four standard deviations around the expectation.
  assert abs(wrong - 0.3 * count) < 4 * (count * 0.3 * 0.7) ** 0.5


def test_splits_share_no_arrangement_and_noise_changes_only_labels():
  clean = list(scenes.generate('train', 400, 0.0, 0))
  noisy = list(scenes.generate('train', 400, 0.3, 0))
  held_out = list(scenes.generate('validation', 40, 0.0, 0))
  assert [row[:2] for row in clean] == [row[:2] for row in noisy]
  assert all(question.answer == label for _, question, label in clean)
  wrong = sum(question.answer != label for _, question, label in noisy)
  assert 85 < wrong < 155  # 120 expected, four standard deviations around it.
  assert not {png for png, _, _ in clean} & {png for png, _, _ in held_out}
  rng = random.Random(3)
  scenes_ = [scenes.draw_scene(rng) for _ in range(2000)]
  arrangements = {'train': set(), 'validation': set()}
  for items in scenes_:
    names = tuple((item.place, item.name) for item in items)
    arrangements[scenes.split_of(items)].add(names)
  assert not arrangements['train'] & arrangements['validation']
  held = len(arrangements['validation'])
  assert 0.06 < held / sum(map(len, arrangements.values())) < 0.14
