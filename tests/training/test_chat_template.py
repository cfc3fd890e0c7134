"""The demo model's chat template: conversations as in training, tools and the thinking switch."""

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

MARKS = {"image": "<|begin_of_image|><|image|><|end_of_image|>", "video": "<|begin_of_video|><|video|><|end_of_video|>"}

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
PARTS = st.one_of(
    TEXT.map(lambda text: {"type": "text", "text": text}),
    st.sampled_from(["image", "image_url", "video", "video_url", "audio"]).map(lambda kind: {"type": kind}),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant"]),
            "content": st.one_of(TEXT, st.lists(PARTS, min_size=1, max_size=5)),
        }
    ),
    min_size=1,
    max_size=6,
)


def trained_on(messages: list[dict]) -> str:
    """A conversation in the format of training."""
    rendered = "[gMASK]<sop>"
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = "".join(part.get("text", MARKS.get(part["type"].removesuffix("_url"), "")) for part in content)
        rendered += f"<|{message['role']}|>\n{content}"
    return rendered + "<|assistant|>\n"


def test_a_plain_conversation_looks_as_in_training(tokenizer: PreTrainedTokenizerFast) -> None:
    @settings(max_examples=300, deadline=None)
    @given(MESSAGES)
    def check(messages: list[dict]) -> None:
        for more in ({}, {"tools": []}, {"enable_thinking": False}):
            rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **more)
            assert rendered == trained_on(messages)

    check()


def test_with_thinking_enabled_the_prompt_opens_the_reasoning(tokenizer: PreTrainedTokenizerFast) -> None:
    @settings(max_examples=100, deadline=None)
    @given(MESSAGES)
    def check(messages: list[dict]) -> None:
        for more in ({}, {"tools": []}):
            rendered = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=True, **more
            )
            assert rendered == trained_on(messages) + "<think>\n"

    check()


def test_without_a_generation_prompt_no_reasoning_is_opened(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=True)
    assert rendered == "[gMASK]<sop><|user|>\nQ<|assistant|>\nA"


def test_tools_calls_and_results_have_the_format_of_glm_45v(tokenizer: PreTrainedTokenizerFast) -> None:
    tool = {"type": "function", "function": {"name": "look", "description": "看"}}
    calls = [
        {"type": "function", "function": {"name": "look", "arguments": {"at": "left", "n": [1, {"是": None}]}}},
        {"type": "function", "function": {"name": "look", "arguments": {}}},
    ]
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "Wait.", "tool_calls": calls},
        {"role": "tool", "content": "dark"},
        {"role": "tool", "content": [{"type": "text", "text": "see:"}, {"type": "image"}]},
        {"role": "assistant", "content": None, "tool_calls": calls[1:]},
        {"role": "tool", "content": ""},
    ]
    rendered = tokenizer.apply_chat_template(messages, tools=[tool], tokenize=False, add_generation_prompt=True)
    tools, _, conversation = rendered.partition("<|user|>\n")
    assert tools.startswith("[gMASK]<sop><|system|>\n# Tools\n")
    assert '<tools>\n{"type": "function", "function": {"name": "look", "description": "看"}}\n</tools>\n' in tools
    assert conversation == (
        "Q<|assistant|>\nWait.\n<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>left</arg_value>\n"
        '<arg_key>n</arg_key>\n<arg_value>[1, {"是": null}]</arg_value>\n</tool_call>\n<tool_call>look\n</tool_call>'
        "<|observation|>\n<tool_response>\ndark\n</tool_response>\n<tool_response>\nsee:"
        "<|begin_of_image|><|image|><|end_of_image|>\n</tool_response>"
        "<|assistant|>\n<tool_call>look\n</tool_call><|observation|>\n<tool_response>\n\n</tool_response><|assistant|>\n"
    )
