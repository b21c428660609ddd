"""New adapters: a plugin package drafted from what was seen in a model."""
