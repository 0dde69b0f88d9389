"""What a config resolves to: models, tokenizer, objective, devices, workdir."""
