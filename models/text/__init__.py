"""Prompts to ids: templates, vocabularies, and tokens of one vocabulary in another."""
