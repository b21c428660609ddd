"""A real `HunyuanVideoImageToVideoPipeline` of tiny random components: image tokens before the text."""

from __future__ import annotations

import tiny_hunyuan_video
import tiny_texts
from diffusers import HunyuanVideoImageToVideoPipeline
from transformers import CLIPImageProcessorPil

END = "<|end_header_id|>"
TEMPLATE = {
    "template": f"<image> {END} {END} {{}} a a a {END}",
    "crop_start": 3,
    "image_emb_start": 0,
    "image_emb_end": 4,
    "image_emb_len": 4,
}
CALL = {"num_frames": 9, "height": 16, "width": 32, "max_sequence_length": 16, "prompt_template": TEMPLATE}
IMAGE = True


def pipeline() -> HunyuanVideoImageToVideoPipeline:
    parts = tiny_hunyuan_video.pipeline().components
    parts["transformer"] = tiny_hunyuan_video.transformer(image_condition_type="token_replace", guidance_embeds=False)
    parts["tokenizer"].add_tokens(["<image>", END], special_tokens=True)
    parts["text_encoder"] = tiny_texts.llava()
    small = {"size": {"shortest_edge": 4}, "crop_size": {"height": 4, "width": 4}}
    return HunyuanVideoImageToVideoPipeline(**parts, image_processor=CLIPImageProcessorPil(**small))
