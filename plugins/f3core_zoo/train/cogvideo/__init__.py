"""Training of `digits_cogvideo`: a VQ tokenizer of frames, and a CogVideo stage-1 model over its tokens."""
