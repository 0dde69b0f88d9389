"""Fakes of a cloud's programs: gcloud, kubectl, ssh and those of a TPU VM.

A world is a folder with the behavior that a test plans (plan.json), the
existing resources (slices, machines) and all calls in order (calls.jsonl).
"""
