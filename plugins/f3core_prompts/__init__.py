"""Prompt sets of published evaluations."""
