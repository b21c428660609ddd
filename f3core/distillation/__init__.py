"""Training a pruned model to do again what the model it came from does: distillation, with losses that plugins add."""
