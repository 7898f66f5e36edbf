"""Sightline inside other harnesses: a model with any decoder, for lm-evaluation-harness and lmms-eval.

Neither package is imported here; `lm_eval_model` and `lmms_eval_models` import theirs. docs/harnesses.md shows how.
"""
