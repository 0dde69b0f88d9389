"""Diagnoses the problems of a run from the files in its workdir."""
