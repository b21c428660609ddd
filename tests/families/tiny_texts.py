"""Tiny text encoders and their tokenizers, built locally, that the pipelines of several families share."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    T5Gemma2Encoder,
    T5Gemma2EncoderConfig,
    T5Gemma2TextConfig,
)

WORDS = ("a", "red", "green", "cat", "dog", "runs", "sleeps", "left", "right")
SPECIAL = ("<pad>", "</s>", "<unk>")
CLIP_LENGTH = 77
"""tokens of a prompt for a CLIP text encoder"""


def tokenizer(length: int = 32, kind: type = PreTrainedTokenizerFast, special: tuple[str, ...] = SPECIAL) -> object:
    """A tokenizer of ten words; the first three of ``special`` are padding, end and unknown."""
    vocabulary = {word: i for i, word in enumerate((*special, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=special[2]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return kind(
        tokenizer_object=words,
        pad_token=special[0],
        eos_token=special[1],
        unk_token=special[2],
        model_max_length=length,
    )


def chat_tokenizer(length: int = 32) -> object:
    """A `tokenizer` that writes chats out, as those of chat models do."""
    made = tokenizer(length)
    made.chat_template = "{% for message in messages %}{{ message['content'][0]['text'] }}{% endfor %}</s>"
    return made


def t5(width: int = 8) -> T5EncoderModel:
    """A T5 encoder whose embeddings have ``width`` channels."""
    size = len(SPECIAL) + len(WORDS)
    return T5EncoderModel(T5Config(vocab_size=size, d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).eval()


def clip_text(width: int = 8) -> CLIPTextModel:
    """A CLIP text encoder whose embeddings have ``width`` channels; it takes `CLIP_LENGTH` tokens."""
    size = len(SPECIAL) + len(WORDS)
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"max_position_embeddings": CLIP_LENGTH, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return CLIPTextModel(CLIPTextConfig(vocab_size=size, **sizes, **tokens)).eval()


def llama(width: int = 8) -> LlamaModel:
    """A Llama model whose hidden states have ``width`` channels; pipelines take those of two layers before the last."""
    size = len(SPECIAL) + len(WORDS)
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaModel(LlamaConfig(vocab_size=size, pad_token_id=0, bos_token_id=1, eos_token_id=1, **sizes)).eval()


def qwen_vl(width: int = 8, layers: int = 1) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen 2.5 VL whose text states have ``width`` channels; its vision is there and as small as can be."""
    size = len(SPECIAL) + len(WORDS)
    words = {"vocab_size": size, "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 1}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 0]}
    sight = {"depth": 1, "hidden_size": 8, "num_heads": 2, "intermediate_size": 8, "out_hidden_size": width}
    text = {**words, **heads, "rope_parameters": rope}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=sight)).eval()


def clip_vision(width: int = 8) -> CLIPVisionModel:
    """A CLIP picture encoder of 257 tokens, as CLIP's largest have, with ``width`` channels."""
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=2, **sizes)).eval()


def clip_vision_projected(width: int = 8) -> CLIPVisionModelWithProjection:
    """A CLIP picture encoder that makes one embedding of ``width`` channels."""
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=width, **sizes)
    return CLIPVisionModelWithProjection(config).eval()


def clip_image_processor() -> CLIPImageProcessorPil:
    """What `clip_vision` needs in front of it."""
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def gemma(width: int = 8) -> Gemma2Model:
    """A Gemma 2 model whose hidden states have ``width`` channels."""
    size = len(SPECIAL) + len(WORDS)
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return Gemma2Model(
        Gemma2Config(vocab_size=size, pad_token_id=0, bos_token_id=1, eos_token_id=1, **sizes, **heads)
    ).eval()


def t5gemma2(width: int = 8) -> T5Gemma2Encoder:
    """A T5Gemma 2 encoder whose embeddings have ``width`` channels; its vision is there and as small as can be."""
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": len(SPECIAL) + len(WORDS), "layer_types": ["full_attention"], "head_dim": 4}
    text = T5Gemma2TextConfig(**sizes, **words, num_key_value_heads=1, bos_token_id=1, dropout_rate=0.0)
    sight = {"model_type": "siglip_vision_model", **sizes, "image_size": 32, "patch_size": 16}
    return T5Gemma2Encoder(T5Gemma2EncoderConfig(text_config=text, vision_config=sight, mm_tokens_per_image=4)).eval()


def gemma3(width: int = 8) -> Gemma3ForConditionalGeneration:
    """A Gemma 3 of one layer whose text states have ``width`` channels; its vision is as small as can be."""
    size = len(SPECIAL) + len(WORDS)
    words = {"vocab_size": size, "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    sight = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen = {**sight, "image_size": 8, "patch_size": 4}
    config = Gemma3Config(text_config={**words, **heads}, vision_config=seen, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config).eval()


def siglip_vision(width: int = 8) -> SiglipVisionModel:
    """A SigLIP picture encoder of 729 tokens, as its usual ones have, with ``width`` channels."""
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return SiglipVisionModel(SiglipVisionConfig(image_size=27, patch_size=1, **sizes)).eval()


def llava(width: int = 8) -> LlavaForConditionalGeneration:
    """A Llava that sees four tokens of a picture, whose text states have ``width`` channels.

    Its vocabulary is `tokenizer`'s and two more, the first of which stands for the picture.
    """
    known = len(SPECIAL) + len(WORDS)
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_attention_heads": 2}
    words = LlamaConfig(vocab_size=known + 2, num_hidden_layers=2, bos_token_id=1, eos_token_id=1, **sizes)
    sight = CLIPVisionConfig(image_size=4, patch_size=2, num_hidden_layers=1, **sizes)
    config = LlavaConfig(vision_config=sight, text_config=words, image_token_index=known, pad_token_id=0)
    return LlavaForConditionalGeneration(config).eval()
