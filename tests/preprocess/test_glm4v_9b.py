import json
from pathlib import Path

import pytest
import tiktoken

from serve_app.contracts import ChatRequest, ImagePart, Message, Part, TextPart, Thinking
from serve_app.errors import ContextTooLong, ImageRejected, InvalidRequest
from serve_app.preprocess.glm4v_9b import Glm4v9bProcessor
from serve_app.preprocess.picture_limits import ImageLabel
from serve_app.settings import ModelSettings, PreprocessSettings
from tests.preprocess.conftest import WriteCheckpoint
from tests.preprocess.vocabulary import PATTERN, SPECIALS_9B, random_texts, trained

FIRST = len(trained())
ID = {token: FIRST + index for index, token in enumerate(SPECIALS_9B)}
PICTURE = ImagePart(b"", "messages[0].content[0]")
LIMIT = 8192


def own(folder: Path, context: int = LIMIT) -> Glm4v9bProcessor:
    config = json.loads((folder / "config.json").read_text())
    return Glm4v9bProcessor(
        folder, config, ModelSettings(path=str(folder), context_tokens=context), PreprocessSettings()
    )


def asking(*messages: Message, **more: object) -> ChatRequest:
    return ChatRequest("r", messages, **more)


def user(*parts: str | Part) -> Message:
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def original(conversation: list[tuple[str, str, bool]]) -> list[int]:
    """What tokenization_chatglm.py does with (role, text, has a picture), placeholders in full."""
    encoding = tiktoken.Encoding("original", pat_str=PATTERN, mergeable_ranks=trained(), special_tokens={})
    ids = [ID["[gMASK]"], ID["<sop>"]]
    for role, text, picture in conversation:
        if text or picture:
            ids += [ID[f"<|{role}|>"], *encoding.encode("\n", disallowed_special=())]
            if picture:
                ids += [ID["<|begin_of_image|>"], *[ID["<|endoftext|>"]] * 1600, ID["<|end_of_image|>"]]
            ids += encoding.encode(text, disallowed_special=())
    return [*ids, ID["<|assistant|>"]]


@pytest.mark.parametrize(
    ("messages", "conversation"),
    [
        ([user("你好")], [("user", "你好", False)]),
        ([user(PICTURE, "What is in the picture?")], [("user", "What is in the picture?", True)]),
        ([user("What", PICTURE, " is it?")], [("user", "What is it?", True)]),
        ([user(PICTURE)], [("user", "", True)]),
        ([user("\n\nQ\n")], [("user", "\n\nQ\n", False)]),
        (
            [
                Message("system", (TextPart("Be brief."),)),
                user(PICTURE, "Q1"),
                Message("assistant", (TextPart("A1\n"),)),
                user("Q2"),
            ],
            [("system", "Be brief.", False), ("user", "Q1", True), ("assistant", "A1\n", False), ("user", "Q2", False)],
        ),
        (
            [user("Q1"), Message("assistant", (TextPart("\nA1"),), "hm"), user("Q2", PICTURE)],
            [("user", "Q1", False), ("assistant", "A1", False), ("user", "Q2", True)],
        ),
        ([Message("system", (TextPart(""),)), user("Q")], [("user", "Q", False)]),
        ([user("Q/nothink")], [("user", "Q/nothink", False)]),
    ],
)
def test_ids_equal_the_original_tokenizers(
    checkpoint_9b: Path, messages: list[Message], conversation: list[tuple[str, str, bool]]
) -> None:
    tokenized = own(checkpoint_9b).tokenize(asking(*messages), [1602], LIMIT)
    assert tokenized.token_ids.tolist() == original(conversation)
    assert tokenized.thinking == Thinking(enabled=False)


@pytest.mark.parametrize("begun", ["The number is", "\nA: [1,", "图中"])
def test_an_answer_that_is_begun_is_the_end_of_the_prompt(checkpoint_9b: Path, begun: str) -> None:
    """The model writes a line break after its role, then the answer, as in the history."""
    request = asking(user(PICTURE, "Q"), Message("assistant", (TextPart(begun),)), continue_last=True)
    ids = own(checkpoint_9b).tokenize(request, [1602], LIMIT).token_ids.tolist()
    conversation = [("user", "Q", True), ("assistant", begun.removeprefix("\n"), False)]
    assert ids == original(conversation)[:-1]


def test_any_text_is_encoded_as_by_the_original(checkpoint_9b: Path) -> None:
    family = own(checkpoint_9b)
    for text in random_texts(500, seed=2):
        tokenized = family.tokenize(asking(user(f"{text}?")), [], LIMIT)
        assert tokenized.token_ids.tolist() == original([("user", f"{text}?", False)])


def test_every_picture_becomes_one_square(checkpoint_9b: Path) -> None:
    family = own(checkpoint_9b)
    for detail in ("auto", "low", "high", "original"):
        assert family.target_size(1120, 3, detail, ImageLabel(1, "image")) == (1120, 1120)
    assert family.target_size(4000, 3, "high", ImageLabel(1, "image")) == (1120, 1120)
    assert family.picture_tokens(1120, 1120) == 1602


def test_a_picture_larger_than_the_square_cannot_be_seen_as_it_is(checkpoint_9b: Path) -> None:
    with pytest.raises(ImageRejected, match=r"Picture 1 is 1121 x 900; .* 1120 x 1120 \(1602 tokens\)") as refused:
        own(checkpoint_9b).target_size(1121, 900, "original", ImageLabel(1, "image"))
    assert refused.value.param == "image"


@pytest.mark.parametrize(
    ("context", "pictures", "expected"),
    [
        (8192, 0, "8192 tokens"),
        (8192, 1, "8192 tokens"),
        (9791, 1, "9791 tokens"),
        (100_000, 0, "8192 tokens (the model has 8192 positions)"),
        (100_000, 1, "9791 tokens (the model has 8192 positions, of which a picture takes 3)"),
        (64, 1, "64 tokens"),
    ],
)
def test_the_context_is_the_models_positions_or_the_services_tokens(
    checkpoint_9b: Path, context: int, pictures: int, expected: str
) -> None:
    assert str(own(checkpoint_9b, context).context_limit(pictures)) == expected


@pytest.mark.parametrize("thinking", [Thinking(True), Thinking(None, 100)])
def test_thinking_is_refused(checkpoint_9b: Path, thinking: Thinking) -> None:
    with pytest.raises(InvalidRequest, match="does not support thinking"):
        own(checkpoint_9b).tokenize(asking(user("Q"), thinking=thinking), [], LIMIT)


def test_a_text_that_cannot_fit_is_refused_with_its_field(checkpoint_9b: Path) -> None:
    with pytest.raises(ContextTooLong, match="8192 tokens") as refused:
        own(checkpoint_9b).tokenize(asking(user("x" * 10_000_000), param="input"), [], LIMIT)
    assert refused.value.param == "input"


def test_its_abilities_are_those_of_every_model(checkpoint_9b: Path) -> None:
    assert own(checkpoint_9b).abilities == ("chat", "vision", "streaming", "structured_output", "logprobs")


def test_the_tokenizers_own_ids_of_special_tokens_win(write_checkpoint_9b: WriteCheckpoint) -> None:
    moved = {token: 3000 + 2 * index for index, token in enumerate(SPECIALS_9B)}
    folder = write_checkpoint_9b(
        boi_token_id=moved["<|begin_of_image|>"],
        eoi_token_id=moved["<|end_of_image|>"],
        pad_token_id=moved["<|endoftext|>"],
        eos_token_id=moved["<|user|>"],
    )
    added = {str(number): {"content": token, "special": True} for token, number in moved.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added, "image_size": 1120}))
    token_ids = own(folder).tokenize(asking(user(PICTURE, "Q")), [1602], LIMIT).token_ids.tolist()
    there = {FIRST + index: moved[token] for index, token in enumerate(SPECIALS_9B)}
    assert token_ids == [there.get(token_id, token_id) for token_id in original([("user", "Q", True)])]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"boi_token_id": 7}, "config.json has boi_token_id 7, but"),
        ({"eoi_token_id": None}, "config.json has eoi_token_id None"),
        ({"pad_token_id": FIRST + 1}, "config.json has pad_token_id"),
        ({"eos_token_id": [FIRST, 65]}, "config.json has eos_token_id"),
        ({"eos_token_id": 65}, "config.json has eos_token_id 65"),
    ],
)
def test_a_config_that_contradicts_the_tokenizer_is_refused(
    write_checkpoint_9b: WriteCheckpoint, config: dict[str, object], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refused:
        own(write_checkpoint_9b(**config))
    assert refused.value.param == "model.path"


@pytest.mark.parametrize("number", [65, FIRST])
def test_two_tokens_of_one_id_are_refused(write_checkpoint_9b: WriteCheckpoint, number: int) -> None:
    folder = write_checkpoint_9b()
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {number: {"content": "<sop>"}}}))
    with pytest.raises(InvalidRequest, match="ids that other tokens have too"):
        own(folder)


def test_the_tiny_reference_shape_is_read(write_checkpoint_9b: WriteCheckpoint) -> None:
    """Special tokens first, then the vocabulary; 4 patches a picture, 128 positions."""
    folder = write_checkpoint_9b(
        vision_config={"image_size": 56, "patch_size": 14},
        seq_length=128,
        pad_token_id=0,
        eos_token_id=[0, 7, 9],
        boi_token_id=10,
        eoi_token_id=11,
    )
    lines = [line.split() for line in (folder / "tokenizer.model").read_bytes().splitlines()]
    moved = [token + b" " + str(int(rank) + 14).encode() for token, rank in lines]
    (folder / "tokenizer.model").write_bytes(b"\n".join(moved))
    added = {index: {"content": token} for index, token in enumerate(SPECIALS_9B)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    family = own(folder)
    token_ids = family.tokenize(asking(user(PICTURE, "a")), [6], LIMIT).token_ids.tolist()
    assert token_ids == [2, 4, 7, 14 + 10, 10, 0, 0, 0, 0, 11, 14 + 97, 8]
    assert family.context_limit(1).tokens == 131
