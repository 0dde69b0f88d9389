"""The experiments' configs; base.py has every legal field."""
