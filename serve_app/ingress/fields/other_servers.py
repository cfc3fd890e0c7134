"""Fields of other servers' clients: those without an effect here, and those accepted with one value only."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field

from serve_app.ingress.fields.strict_model import IGNORED, StrictModel, UnsupportedField


class IgnoredFields(StrictModel):
    """Hints for the platforms of OpenAI, z.ai and others; they have no effect here."""

    user: Any = Field(None, description=IGNORED)
    store: Any = Field(None, description=f"{IGNORED} Nothing is stored.")
    safety_identifier: Any = Field(None, description=IGNORED)
    prompt_cache_key: Any = Field(None, description=IGNORED)
    prompt_cache_retention: Any = Field(None, description=IGNORED)
    prompt_cache_options: Any = Field(None, description=IGNORED)
    request_id: Any = Field(None, description=f"{IGNORED} The id in the header X-Request-ID counts. (z.ai's)")
    rid: Any = Field(None, description=f"{IGNORED} As `request_id`. (SGLang's)")
    user_id: Any = Field(None, description=f"{IGNORED} (z.ai's)")
    tool_stream: Any = Field(
        None, description=f"{IGNORED} A stream always has tool calls as they are generated. (z.ai's)"
    )
    watermark_enabled: Any = Field(None, description=f"{IGNORED} It is for generated pictures. (z.ai's)")
    cache_salt: Any = Field(None, description=f"{IGNORED} Pages of equal prompts are shared in one tenant. (vLLM's)")
    cache_prompt: Any = Field(None, description=f"{IGNORED} Equal prompts always share pages. (llama.cpp's)")
    timings_per_token: Any = Field(None, description=f"{IGNORED} (llama.cpp's)")
    guided_decoding_backend: Any = Field(None, description=f"{IGNORED} (earlier versions of vLLM)")


CONTEXT_HINT: Final = "The context is set by the service; /v1/models returns its length."
PENALTY_HINT: Final = "Use 'repetition_penalty'."
LIMIT_HINT: Final = "Use 'max_tokens'."

UNSUPPORTED_ELSEWHERE: Final[dict[str, UnsupportedField]] = {
    # vLLM's and SGLang's
    "allowed_token_ids": UnsupportedField(([],)),
    "bad_words": UnsupportedField(([],), "Use 'logit_bias'."),
    "best_of": UnsupportedField((1,), "Use 'n'."),
    "detokenize": UnsupportedField((True,)),
    "ebnf": UnsupportedField(("",)),
    "early_stopping": UnsupportedField((False,)),
    "include_stop_str_in_output": UnsupportedField((False,)),
    "length_penalty": UnsupportedField((1,)),
    "logits_processors": UnsupportedField(([],)),
    "lora_path": UnsupportedField(),
    "no_stop_trim": UnsupportedField((False,)),
    "json_schema": UnsupportedField((), "Use 'response_format'."),
    "prompt_logprobs": UnsupportedField(),
    "regex": UnsupportedField(("",), "Use 'guided_regex'."),
    "return_hidden_states": UnsupportedField((False,)),
    "return_token_ids": UnsupportedField((False,)),
    "return_tokens_as_token_ids": UnsupportedField((False,)),
    "skip_special_tokens": UnsupportedField((True,)),
    "spaces_between_special_tokens": UnsupportedField((True, False)),
    "truncate_prompt_tokens": UnsupportedField(),
    "use_beam_search": UnsupportedField((False,)),
    "vllm_xargs": UnsupportedField(({},)),
    "return_cached_tokens_details": UnsupportedField((False,)),
    "return_meta_info": UnsupportedField((False,)),
    "return_prompt_token_ids": UnsupportedField((False,)),
    "return_routed_experts": UnsupportedField((False,)),
    "routed_experts_start_len": UnsupportedField((0,)),
    "use_audio_in_video": UnsupportedField((False,)),
    # LMDeploy's and Mistral's
    "do_preprocess": UnsupportedField((True,)),
    "safe_prompt": UnsupportedField((False,)),
    "session_id": UnsupportedField((-1,)),
    # llama.cpp's and Ollama's
    "backend_sampling": UnsupportedField((False,)),
    "dry_allowed_length": UnsupportedField((2,)),
    "dry_base": UnsupportedField((1.75,)),
    "dry_multiplier": UnsupportedField((0,)),
    "dry_penalty_last_n": UnsupportedField((-1,)),
    "dynatemp_exponent": UnsupportedField((1,)),
    "dynatemp_range": UnsupportedField((0,)),
    "format": UnsupportedField(("",), "Use 'response_format'."),
    "grammar": UnsupportedField(("",)),
    "id_slot": UnsupportedField((-1,)),
    "min_keep": UnsupportedField((0,)),
    "mirostat": UnsupportedField((0,)),
    "mirostat_eta": UnsupportedField((0.1,)),
    "mirostat_tau": UnsupportedField((5,)),
    "n_keep": UnsupportedField((0,)),
    "n_probs": UnsupportedField((0,), "Use 'logprobs'."),
    "n_predict": UnsupportedField((-1,), LIMIT_HINT),
    "num_ctx": UnsupportedField((), CONTEXT_HINT),
    "num_predict": UnsupportedField((-1,), LIMIT_HINT),
    "options": UnsupportedField(({},), "Give each option as a field of its own."),
    "post_sampling_probs": UnsupportedField((False,)),
    "raw": UnsupportedField((False,), "Use /v1/completions."),
    "repeat_last_n": UnsupportedField((64, 0), PENALTY_HINT),
    "repeat_penalty": UnsupportedField((1,), PENALTY_HINT),
    "return_progress": UnsupportedField((False,)),
    "tfs_z": UnsupportedField((1,)),
    "typ_p": UnsupportedField((1,)),
    "typical_p": UnsupportedField((1,)),
    "xtc_probability": UnsupportedField((0,)),
    "xtc_threshold": UnsupportedField((0.1,)),
    # transformers', z.ai's, Qwen's and OpenRouter's
    "enable_search": UnsupportedField((False,)),
    "extra_body": UnsupportedField(({},), "Give its fields in the request itself."),
    "incremental_output": UnsupportedField((True,)),
    "num_beams": UnsupportedField((1,)),
    "result_format": UnsupportedField(("message",)),
    "sensitive_word_check": UnsupportedField(({"type": "ALL", "status": "DISABLE"},)),
    "vl_high_resolution_images": UnsupportedField((False,), "Use 'detail' of a picture."),
}

UNSUPPORTED_TEMPLATE: Final[dict[str, UnsupportedField]] = {
    "add_special_tokens": UnsupportedField((False,), "The chat template writes them."),
    "chat_template": UnsupportedField((), "The model's own chat template is used."),
    "documents": UnsupportedField(([],), "Give them in a message."),
    "echo": UnsupportedField((False,)),
    "include_reasoning": UnsupportedField((True,)),
    "mm_processor_kwargs": UnsupportedField(({},)),
    "reasoning_format": UnsupportedField(("auto", "deepseek", "parsed")),
    "separate_reasoning": UnsupportedField((True,)),
    "stream_reasoning": UnsupportedField((True,)),
}
"""Those about a conversation."""
