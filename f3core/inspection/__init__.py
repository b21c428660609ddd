"""Unknown models: where they have attention, what its tokens are, which sites to propose."""
