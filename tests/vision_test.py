"""Tests training, resuming and exporting a model with a vision tower."""

import base64
import json
import random
import shutil

import jax
import numpy as np
import pytest

import kd
from kd.config import base
from kd.configs import quickstart
from kd.core import errors
from kd.data import scenes
from kd.run import resolve
from kd.train import training_rows
from tests import command
from tests import page_commands

_SMALL = (
  '--config.student.variant=nano',
  '--config.steps=4',
  '--config.optimizer.lr.warmup_steps=1',
  '--config.data.batch_size=2',
  '--config.data.examples=40',
  '--config.data.length=128',
  '--config.data.images.per_row=1',
  '--config.evaluation.baseline=False',
  '--config.evaluation.batch_size=2',
  '--config.evaluation.sets.held_out.examples=4',
  '--config.evaluation.sets.held_out.answers=2',
  '--config.evaluation.max_new_tokens=4',
  '--config.checkpoint.every=2',
  '--config.log.every=1',
  '--config.log.tensorboard=False',
)


@pytest.mark.parametrize(
  ('field', 'path'),
  [('losses', 'losses.states.part'), ('modalities', 'objective.modalities')],
)
def test_settings_of_images_need_rows_with_images(field, path, tmp_path):
  config = quickstart.get_config()
  config.data.folder = str(tmp_path)
  config.data.examples = 20
  if field == 'losses':
    config.losses.states = base.term('hidden_states', part='image')
  else:
    config.student.vision = 'own'
    config.teacher.update(source='none', init='')
    config.losses = dict(ce=base.term('cross_entropy'))
    config.data.tokenizer = 'bytes'
    config.objective.modalities = base.modalities(image=2.0)
  run = resolve.resolve(base.checked(config), jax.devices()[:1])
  with pytest.raises(errors.ConfigError, match='no row has') as error:
    training_rows.prepare(run, lambda line: None)
  assert str(error.value).startswith(path)


def test_the_teacher_answers_about_held_out_scenes():
  model = kd.load('data/fixtures/scenes_teacher')
  drawn = list(scenes.generate('validation', 24, 0.0, 0))
  prompts = [[_message(png, question.text)] for png, question, _ in drawn]
  answers = model.generate(prompts, max_new_tokens=72)
  right = sum(
    answer.text == label
    for (answer,), (_, _, label) in zip(answers, drawn, strict=True)
  )
  assert right > 15  # On 256 questions 82 % were right.


def _message(png, text):
  picture = base64.b64encode(png).decode()
  content = [
    {'type': 'image', 'base64': picture},
    {'type': 'text', 'text': text},
  ]
  return {'role': 'user', 'content': content}


def test_scenes_train_resume_export_and_answer(tmp_path):
  (arguments,) = page_commands.commands('docs/vision.md')
  workdir = str(tmp_path / 'run')
  arguments = [
    a for a in arguments if not a.startswith(('--workdir', '--mode'))
  ]
  arguments += [*_SMALL, f'--workdir={workdir}']
  code, out, err = command.run(arguments, command.ALTERNATING)
  assert code == 0, err
  assert '40 images' in out + err
  # Answers about images have the KL of their tokens and stop ids.
  with open(f'{workdir}/evaluations/step_4.answers.jsonl') as f:
    answers = [json.loads(line) for line in f]
  for answer in answers:
    count = answer['tokens'] + (answer['finish'] == 'stop')
    assert len(answer['token_kl']) == len(answer['token_ends']) == count
    assert answer['token_ends'][-1] == len(answer['answer'])
  # Resumed from its second step, the run ends the same.
  whole = command.saved(workdir, 4)
  assert any(key.startswith('params/vision/tower') for key in whole)
  resumed = str(tmp_path / 'resumed')
  shutil.copytree(workdir, resumed)
  shutil.rmtree(f'{resumed}/checkpoints/4')
  again = [*arguments[:-1], f'--workdir={resumed}']
  code, _, err = command.run(again, command.ALTERNATING)
  assert code == 0, err
  command.assert_ended_alike(resumed, workdir, 4)

  code, _, err = command.run([*arguments, '--mode=export'], command.ALTERNATING)
  assert code == 0, err
  exported = f'{workdir}/export/hf'
  with open(f'{exported}/config.json', encoding='utf-8') as f:
    config = json.load(f)
  assert config['architectures'] == ['Gemma3ForConditionalGeneration']
  assert config['mm_tokens_per_image'] == 16

  rng = random.Random(0)
  picture = scenes.png(scenes.draw_scene(rng))
  prompts = tmp_path / 'prompts.jsonl'
  row = {'messages': [_message(picture, 'What is there?')]}
  prompts.write_text(json.dumps(row) + '\n')
  answers = str(tmp_path / 'answers')
  code, out, err = command.run(
    [
      *arguments,
      '--mode=generate',
      f'--config.generate.prompts={prompts}',
      f'--config.generate.output={answers}',
      '--config.generate.max_new_tokens=4',
    ],
    command.ALTERNATING,
  )
  assert code == 0 and '1/1 prompts answered' in out, err

  # A text-only student of a teacher with a tower.
  code, _, err = command.run(
    [
      *command.QUICK,
      '--config.steps=4',
      f'--config.teacher.init=hf:{exported}',
      '--config.teacher.vision=own',
      '--config.student.variant=',
      '--config.student.init=teacher',
      '--config.evaluation.baseline=False',
      f'--workdir={tmp_path / "text"}',
    ],
    command.ALTERNATING,
  )
  assert code == 0, err
  text_alone = command.saved(str(tmp_path / 'text'), 4)
  assert {*text_alone} == {
    key for key in whole if '/vision/' not in key and '/tower/' not in key
  }
  # A student that shares the teacher's tower, which encodes each image once.
  code, out, err = command.run(
    [
      *command.QUICK,
      '--config.steps=4',
      '--config.data.mixture=scenes',
      '--config.data.examples=40',
      '--config.data.length=128',
      '--config.data.images.per_row=1',
      f'--config.teacher.init=hf:{exported}',
      '--config.teacher.vision=own',
      '--config.student.variant=tiny',
      '--config.student.vision=teacher',
      '--config.data.images.features=int8',
      f'--config.data.images.features_folder={tmp_path / "features"}',
      '--config.evaluation.every=0',
      '--config.evaluation.baseline=False',
      '--config.evaluation.sets.held_out.examples=2',
      '--config.evaluation.sets.held_out.answers=1',
      f'--workdir={tmp_path / "shared"}',
    ],
    command.ALTERNATING,
  )
  assert code == 0, err
  assert '40 computed now' in out + err
  shared = command.saved(str(tmp_path / 'shared'), 4)
  tower = {key for key in whole if key.startswith('params/vision/tower')}
  for key in tower:
    assert shared[key].shape == whole[key].shape
    # The teacher's weights are in bfloat16.
    np.testing.assert_allclose(shared[key], whole[key], rtol=0.01)
  moments = [key for key in shared if key.startswith('optimizer')]
  assert any('/vision/projector' in key for key in moments)
  assert not any('/vision/tower' in key for key in moments)


def test_text_models_cannot_train_on_images(tmp_path):
  code, _, err = command.run(
    [
      *command.QUICK,
      '--config.data.mixture=scenes',
      '--config.data.examples=40',
      f'--workdir={tmp_path / "run"}',
    ],
    command.ALTERNATING,
  )
  assert code == 2 and "student.vision or teacher.vision 'own'" in err
