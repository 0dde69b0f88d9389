"""Encodes and answers chats with transformers in the oracles' environment.

Usage: python chats.py ask GIVEN MADE

Reads GIVEN/cases.json with `folder` (for Hugging Face), `chats` (messages),
`prompts` (messages to answer) and `new_tokens`. Writes MADE/results.json with
`ids` and `mask` (the assistant's tokens) of each chat and the greedy `answers`
to the prompts. See client.py.
"""

import json
import os
import sys

import torch
import transformers


def ask(cases):
  folder = cases['folder']
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  ).eval()
  made = [
    tokenizer.apply_chat_template(
      chat,
      tokenize=True,
      return_dict=True,
      return_assistant_tokens_mask=True,
    )
    for chat in cases['chats']
  ]
  answers = []
  with torch.inference_mode():
    for prompt in cases['prompts']:
      given = tokenizer.apply_chat_template(
        prompt,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors='pt',
      )
      out = model.generate(
        **given, max_new_tokens=cases['new_tokens'], do_sample=False
      )
      said = out[0, given['input_ids'].shape[1] :]
      answers.append(tokenizer.decode(said, skip_special_tokens=True))
  return {
    'ids': [chat['input_ids'] for chat in made],
    'mask': [chat['assistant_masks'] for chat in made],
    'answers': answers,
  }


def main(command, given, made):
  with open(os.path.join(given, 'cases.json'), encoding='utf-8') as f:
    cases = json.load(f)
  results = {'ask': ask}[command](cases)
  with open(os.path.join(made, 'results.json'), 'w', encoding='utf-8') as f:
    json.dump(results, f)


if __name__ == '__main__':
  main(*sys.argv[1:])
