"""Programs that stand in for a cloud: gcloud, kubectl, ssh, a TPU VM's own.

A world is a folder: what its test wants to happen (plan.json), what is there
(slices, machines), and every call of every program in order (calls.jsonl).
"""
