"""Builds the demo model's tokenizer: byte-level BPE, GLM's special tokens, GLM's chat template.

Digits, capitals and Chinese characters are single tokens, so a picture is read character by character; lower-case
English is merged into words. Any text survives a round trip, because the alphabet is all 256 bytes.
"""

import json
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from serve_app.settings import DEMO_MODEL
from training import boards, documents, labels, panels, phrases, vocabulary

PROCESSOR_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json")
END = "<|endoftext|>"
# The family's special tokens in their order (GLM-4.5V and 4.6V); their ids follow the ordinary tokens.
SPECIALS = (
    END, "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|begin_of_audio|>",
    "<|end_of_audio|>", "<|begin_of_transcription|>", "<|end_of_transcription|>", "<|code_prefix|>", "<|code_middle|>",
    "<|code_suffix|>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "/nothink", "<|begin_of_box|>", "<|end_of_box|>",
    "<|image|>", "<|video|>",
)  # fmt: skip
# Characters of common customer questions, in addition to those of drawings and wordings.
COMMON = (
    "的一是不了在有人我他这个们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学么之都好看起发当没"
    "成只如事把还用第样道想作种开美总从无情己面最女但现前些所同日手又行意动方期它头经长儿回位分爱老因很给名法间知世什两次使身者被高已"
    "亲其进此话常与活正感见明问力理尔点文几定本公特做外孩相西果走将月十实向声车全信重三机工物气每并别真打太新比才便夫再书部水像眼等体"
    "却加电主界门利海受听表德少克代员许先口由死安写性马光白或住难望教命花结乐色更拉东神记处让母父应直字场平报友关放至张认接告入笑内英"
    "军候民岁往何度山觉路带万男边风解叫任金快原吃妈变通师立象数四失满战远格士音轻目条呢"
)
ENGLISH = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word "
    "but not what all were we when your can said there use an each which she do how their if will up other about "
    "out many then "
    "them these so some her would make like him into time has look two more write go see number no way could people my "
    "than first water been call who oil its now find long down day did get come made may part picture image photo text "
    "please thank thanks label board document total amount date name phone address light red green blue yellow white "
    "purple mean means read tell give show answer question help order price stamp table row column joint solder defect"
)
TEMPLATE = DEMO_MODEL / "chat_template.jinja"  # written by hand


def build_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    pieces = Regex(r"\p{N}|\p{Han}|[A-Z]| ?[a-z]+|[^\s\p{L}\p{N}]|\s|.")
    split = pre_tokenizers.Split(pieces, behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=END, padding_side="left", clean_up_tokenization_spaces=False,
        model_max_length=8192, additional_special_tokens=list(SPECIALS[1:]),
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE.read_text("utf-8")
    return tokenizer


def _corpus() -> list[str]:
    """All wordings and words of the drawings, twice, so that each Chinese character becomes one token."""
    texts = ["，？！：。、；“”", COMMON, ENGLISH, vocabulary.picture_characters()]
    texts += [*panels.DEVICES, *panels.MEANINGS, *documents.TITLES, *documents.STAMPS, *documents.PARTIES]
    texts += [*phrases.SYSTEM, *phrases.NO_PICTURE.values(), *phrases.ABSENT.values()]
    texts += ["".join(names) for names in (*boards.DEFECTS.values(), *panels.LIGHTS)]
    for pair in phrases.FIRST_SECOND.values():
        texts += ["".join(prefixes) for prefixes in pair]
    for wordings in (*phrases.QUESTIONS.values(), phrases.READ_ALL, phrases.DESCRIBE, phrases.AS_JSON, phrases.ASIDES):
        texts += [wording for language in wordings for wording in language]
    for talk in phrases.SMALL_TALK.values():
        texts += talk
    # titles of drawings and fixed parts of sentences, from sample drawings
    for draw in (labels.draw_label, panels.draw_panel, boards.draw_board, documents.draw_document):
        for seed in range(60):
            scene = draw(Random(seed))
            texts += [*scene.lines, phrases.describe(scene, "zh"), phrases.describe(scene, "en")]
            texts += [phrases.as_json(scene, "zh"), phrases.as_json(scene, "en")]
    return texts * 2


def save_processor(folder: Path) -> None:
    """Writes all files except config and weights: tokenizer, chat template, image processor."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    (folder / TEMPLATE.name).write_text(TEMPLATE.read_text("utf-8"), "utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    config["processor_class"] = "Glm4vProcessor"
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    size = {"shortest_edge": 112 * 112, "longest_edge": 2 * 28 * 28 * 360}  # counts a picture as two frames: 360 tokens
    picture = {
        "size": size, "do_rescale": True, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Glm4vImageProcessor", "processor_class": "Glm4vProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(picture, indent=2) + "\n", "utf-8")
