"""Quality metrics of generated video, as papers report them."""
