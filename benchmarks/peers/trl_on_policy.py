"""Timed program for the training loop of TRL's DistillationTrainer.

The argument is a JSON object:
  student, teacher: arguments of Gemma3TextConfig.
  prompts: token ids of each prompt, of equal length, one per row.
  new_tokens: number of tokens in each answer.
"""

import json
import os
import sys
import tempfile
import threading
import traceback

from benchmarks import stepper

_TOKENIZER = {
  'version': '1.0',
  'added_tokens': [],
  'pre_tokenizer': {'type': 'WhitespaceSplit'},
  'truncation': None,
  'padding': None,
  'normalizer': None,
  'post_processor': None,
  'decoder': None,
}


def main(argument):
  stream = stepper.claim_stdout()
  import torch
  import transformers

  torch.set_num_threads(os.cpu_count())
  torch.manual_seed(0)
  spec = json.loads(argument)
  student, teacher = (
    transformers.Gemma3ForCausalLM(
      transformers.Gemma3TextConfig(**spec[name])
    ).float()
    for name in ('student', 'teacher')
  )
  count = lambda model: sum(p.numel() for p in model.parameters())
  facts = {'parameters': [count(student), count(teacher)]}
  with tempfile.TemporaryDirectory() as folder:
    trainer = _trainer(student, teacher, spec, folder)
    turns = _turns(transformers)
    trainer.add_callback(turns)
    threading.Thread(target=_train, args=(trainer,), daemon=True).start()
    stepper.serve(stream, turns.step, facts)


def _train(trainer):
  try:
    trainer.train()
  except BaseException:
    traceback.print_exc()
    os._exit(1)  # Otherwise the main thread would wait forever.


def _turns(transformers):
  """Returns a callback that runs the trainer's loop one step per request."""

  class Turns(transformers.TrainerCallback):
    """Holds the trainer's loop between its steps."""

    def __init__(self):
      self._may_begin = threading.Semaphore(0)
      self._has_ended = threading.Semaphore(0)

    def step(self):
      self._may_begin.release()
      self._has_ended.acquire()

    def on_step_begin(self, *_, **__):
      self._may_begin.acquire()

    def on_step_end(self, *_, **__):
      self._has_ended.release()

  return Turns()


def _trainer(student, teacher, spec, folder):
  import datasets
  import trl

  rows, new_tokens = len(spec['prompts']), spec['new_tokens']
  words = [' '.join(f't{i}' for i in ids) for ids in spec['prompts']]
  settings = trl.DistillationConfig(
    output_dir=folder,
    per_device_train_batch_size=rows,
    gradient_accumulation_steps=1,
    max_steps=10**6,
    learning_rate=1e-4,
    lr_scheduler_type='constant',
    max_grad_norm=1.0,
    # As in our program: no rematerialization.
    gradient_checkpointing=False,
    max_completion_length=new_tokens,
    generation_kwargs={'min_new_tokens': new_tokens},
    temperature=1.0,
    top_k=0,
    beta=1.0,  # The reverse KL.
    bf16=False,
    use_cpu=True,
    save_strategy='no',
    logging_steps=10**6,
    report_to='none',
    disable_tqdm=True,
  )
  return trl.DistillationTrainer(
    model=student,
    teacher_model=teacher,
    args=settings,
    train_dataset=datasets.Dataset.from_dict({'prompt': words}),
    processing_class=_tokenizer(student.config.vocab_size, folder),
  )


def _tokenizer(size, folder):
  """Returns a tokenizer of words: 't17' has the id 17."""
  import transformers

  file = os.path.join(folder, 'words.json')
  vocabulary = {f't{i}': i for i in range(size)}
  with open(file, 'w', encoding='utf-8') as f:
    model = {'type': 'WordLevel', 'vocab': vocabulary, 'unk_token': 't0'}
    json.dump(_TOKENIZER | {'model': model}, f)
  return transformers.PreTrainedTokenizerFast(
    tokenizer_file=file,
    pad_token='t0',
    eos_token='t1',
    bos_token='t2',
    padding_side='left',
  )


if __name__ == '__main__':
  main(sys.argv[1])
