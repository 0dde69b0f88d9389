"""Brings a model into production: checks, Kubernetes manifests, vLLM."""
