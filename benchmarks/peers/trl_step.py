"""Timed program for a step on TRL's losses with models of transformers.

The argument is a JSON object:
  loss: 'gkd' (all logits at once) or 'chunked' (logits in chunks).
  folder: Hugging Face folder of both student and teacher, or
  student, teacher: arguments of Gemma3TextConfig.
  tokens: token ids, rows of equal length.
"""

import json
import os
import sys

from benchmarks import stepper


def main(argument):
  stream = stepper.claim_stdout()
  import torch

  torch.set_num_threads(os.cpu_count())
  torch.manual_seed(0)
  spec = json.loads(argument)
  student, teacher = _models(spec)
  student.train()
  teacher.eval()
  tokens = torch.tensor(spec['tokens'])
  loss = {'gkd': _gkd, 'chunked': _chunked}[spec['loss']](
    student, teacher, tokens
  )
  optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)

  def step():
    optimizer.zero_grad(set_to_none=True)
    loss().backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()

  count = lambda model: sum(p.numel() for p in model.parameters())
  facts = {'parameters': [count(student), count(teacher)]}
  stepper.serve(stream, step, facts)


def _models(spec):
  import torch
  import transformers

  if 'folder' in spec:
    load = transformers.AutoModelForCausalLM.from_pretrained
    return [load(spec['folder'], dtype=torch.float32) for _ in range(2)]
  configs = [
    transformers.Gemma3TextConfig(**spec[name])
    for name in ('student', 'teacher')
  ]
  return [transformers.Gemma3ForCausalLM(config).float() for config in configs]


def _gkd(student, teacher, tokens):
  import torch
  from trl.experimental import gkd

  mask = torch.ones_like(tokens)
  logits = lambda model: model(tokens, attention_mask=mask).logits[:, :-1]

  def loss():
    # The student's pass comes first, as in TRL's trainer.
    found = logits(student)
    with torch.no_grad():
      wanted = logits(teacher)
    return gkd.GKDTrainer.generalized_jsd_loss(
      found, wanted, labels=tokens[:, 1:], beta=0.0
    )

  return loss


def _chunked(student, teacher, tokens):
  import torch
  from trl.trainer import distillation_trainer

  mask = torch.ones_like(tokens)

  def hidden(model):
    output = model.model(tokens, attention_mask=mask)
    return output.last_hidden_state[:, :-1]

  def loss():
    found = hidden(student)
    with torch.no_grad():
      wanted = hidden(teacher)
    return distillation_trainer._chunked_divergence_loss(
      found,
      wanted,
      student.lm_head.weight,
      teacher.lm_head.weight,
      mask[:, 1:],
      0.0,
    )[0]

  return loss


if __name__ == '__main__':
  main(sys.argv[1])
