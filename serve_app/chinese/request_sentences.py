"""Messages about fields, lengths and forms of answers in Chinese, beside those in sentences.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REQUESTS: Final[Mapping[str, str]] = {
    # -- bodies
    "The body is not JSON: {}.": "请求体不是 JSON：{0}。",
    "The body is not UTF-8: byte {} is 0x{}. Encode the JSON as UTF-8.": "请求体不是 UTF-8：第 {0} 个字节是 0x{1}。请用 UTF-8 编码 JSON。",
    "The body begins like UTF-16 but is not; encode the JSON as UTF-8.": "请求体开头像 UTF-16，但并不是；请用 UTF-8 编码 JSON。",
    "The body has {} brackets and {} commas; the limits are {} and {}.": (
        "请求体有 {0} 个括号和 {1} 个逗号，上限是 {2} 个和 {3} 个。"
    ),
    "The body has more than {} halves of characters (lone surrogates such as \\ud83d).": (
        "请求体中的半个字符（如 \\ud83d 的孤立代理项）超过 {0} 个。"
    ),
    "The service has too many unfinished bodies and refused the oldest one.": (
        "未接收完的请求体太多，服务拒绝了其中最早的一个。"
    ),
    "The body arrived too slowly ({} bytes so far). It may take {} seconds, and after {} seconds at least {} bytes a second"
    " have to arrive.": ("请求体到达得太慢（目前 {0} 字节）。最多可用 {1} 秒，{2} 秒之后每秒至少要到达 {3} 字节。"),
    "Send the picture and the question as multipart/form-data.": "请用 multipart/form-data 发送图片和问题。",
    "The form's charset is {}; send it as UTF-8.": "表单的字符集是 {0}；请用 UTF-8 发送。",
    # -- fields
    "{} is '{}'; supported here: {}.": "{0:zh} 是 '{1}'；本服务支持：{2}。",
    "{} must have {} or more entries, not {}.": "{0:zh} 至少要有 {1} 项，现在有 {2} 项。",
    "{} may have {} entries at most.": "{0:zh} 最多 {1} 项。",
    "{} must have {} or more characters.": "{0:zh} 至少要有 {1} 个字符。",
    "{} may have {} characters at most.": "{0:zh} 最多 {1} 个字符。",
    "{} must match {}.": "{0:zh} 必须符合 {1}。",
    " 1 more field is invalid.": "另有 1 个字段无效。",
    " {} more fields are invalid.": "另有 {0} 个字段无效。",
    "; it may only be {}": "，只能是 {0}",
    "Send the whole conversation as 'input'.": "请用 'input' 发送完整的对话。",
    "Nothing is stored; send the whole conversation as 'input'.": "服务不保存对话；请用 'input' 发送完整的对话。",
    "Give them in a message.": "请写在消息里。",
    "The context is set by the service; /v1/models returns its length.": "上下文长度由服务决定；/v1/models 返回它的值。",
    "'{}' names no tool call of an earlier answer.": "'{0}' 不是之前回答中的工具调用。",
    "'{}' and 'add_generation_prompt' exclude each other.": ("'{0}' 和 'add_generation_prompt' 不能同时使用。"),
    "'{}' needs a last message of the assistant with a text to continue.": (
        "使用 '{0}' 时，最后一条消息必须是助手的文本，才能接着写。"
    ),
    "'{}' can't be combined with a format of the answer.": "'{0}' 不能和回答格式一起使用。",
    "'echo' is not supported together with 'logprobs': a prompt has none.": (
        "'echo' 不能和 'logprobs' 一起使用：提示词没有对数概率。"
    ),
    "'echo' is only for a prompt that is a text.": "'echo' 只能用于文本形式的提示词。",
    "'{}' refers to '{}', which is not known here: answers are kept for a while only. Send the item itself; AI SDK does"
    " with the provider option 'store': false.": (
        "'{0}' 引用的 '{1}' 在此未知：回答只保留一段时间。请发送该项本身；AI SDK 用 provider 选项 'store': false。"
    ),
    "'input' has reasoning only; there is nothing to answer.": "'input' 里只有思考过程，没有可以回答的问题。",
    "'{}.file_id' is not supported: this service keeps no files. Send the file as base64.": (
        "不支持 '{0}.file_id'：本服务不保存文件。请用 base64 发送文件。"
    ),
    "'origin' is {}. It must be a scheme, a host and a port if it is not the default one, such as 'https://shop.example',"
    " without a path.": "'origin' 是 {0}。应为协议、主机和非默认的端口，例如 'https://shop.example'，不带路径。",
    # -- messages and their length
    "This model's maximum context length is {}. However, you requested {} tokens ({} in the prompt, {} in the completion)."
    " Lower the answer's limit to {}.": (
        "模型的上下文长度上限是 {0}，而请求需要 {1} 个 token（提示词 {2} 个，回答 {3} 个）。请把回答的上限减小到 {4}。"
    ),
    "This model's maximum context length is {}. However, your messages resulted in {}: the prompt is too long. {}": (
        "模型的上下文长度上限是 {0}，而消息有 {1:zh}，提示词太长。{2:zh}"
    ),
    "{} ({} in the messages, {} in the tools)": "{0}（消息 {1} 个，工具 {2} 个）",
    "Please reduce the number or the length of the tools.": "请减少工具，或缩短它们的定义。",
    "Please reduce the length of the {}.": "请缩短 {0}。",
    "The prompt has {} tokens and the answer may have {}; together at most {} are allowed.": (
        "提示词有 {0} 个 token，回答最多 {1} 个；合计最多允许 {2} 个。"
    ),
    "{} {}, and the served model does not support tools. Remove it.": "{0} {1:zh}，而当前模型不支持工具。请去掉它。",
    "{} has a picture, and the served model cannot see pictures in results of tools. Send it in a user message.": (
        "{0} 带有图片，而当前模型看不到工具结果中的图片。请放在用户消息里发送。"
    ),
    "{} has JSON nested deeper than {} levels, the limit. Use a flatter structure.": (
        "{0} 的 JSON 嵌套超过上限 {1} 层。请使用更扁平的结构。"
    ),
    "A text is continued without the chat template. Send it without messages, tools and thinking.": (
        "续写文本不使用对话模板。请不要同时发送消息、工具和思考设置。"
    ),
    "The question is empty: {} is only {}.": "问题是空的：{0} 只有 {1}。",
    "'{}' has the token id {}; {}.": "'{0}' 含有 token id {1}；{2:zh}。",
    "{} pages": "{0} 页",
    "page {}": "第 {0} 页",
    "pages {} to {}": "第 {0} 页至{1:zh}",
    # -- the form of the answer
    "{} is nested too deeply.": "{0} 嵌套太深。",
    "{} is nested too deeply: at most {} levels.": "{0} 嵌套太深：最多 {1} 层。",
    "{} contains half a character (a lone surrogate).": "{0} 含有半个字符（孤立代理项）。",
    "{} is not supported: {}": "不支持 {0}：{1:zh}",
    "{} is too complex: {} Use a simpler one.": "{0} 太复杂：{1} 请使用更简单的。",
    "{} has {} bytes; at most {} are allowed.": "{0} 有 {1} 字节，最多允许 {2} 字节。",
    "{} is not valid JSON.": "{0} 不是有效的 JSON。",
    "{} has to be a list of at least one string.": "{0} 必须是至少有一个字符串的列表。",
    "It takes too long to compile.": "编译时间太长。",
    "It takes too much memory to compile.": "编译需要的内存太多。",
    "There is no tool {} to call.": "没有可以调用的工具 {0}。",
    "The parameters of the tools have {} bytes; at most {} are allowed.": "工具的参数有 {0} 字节，最多允许 {1} 字节。",
    "The parameters of the tool {} have to be of type object.": "工具 {0} 的参数必须是 object 类型。",
    "The parameters of the tool {} are too large.": "工具 {0} 的参数太大。",
    "The parameters of a tool are nested too deeply.": "工具的参数嵌套太深。",
    "The form of the answer (schema, pattern or tools) could not be compiled in time. Try again shortly.": (
        "回答格式（schema、正则或工具）没有及时编译完。请稍后重试。"
    ),
    "{} forms of answers (schemas, patterns or tools) are waiting to be compiled. Try again shortly.": (
        "有 {0} 个回答格式（schema、正则或工具）在等待编译。请稍后重试。"
    ),
    "{} can't be combined with a constraint on the answer.": "{0} 不能和对回答的约束一起使用。",
    "logit_bias names token {}; token ids go from 0 to {}.": "logit_bias 指定了 token {0}；token id 的范围是 0 到 {1}。",
    "The served model does not support tools. Send the request without 'tools'.": "当前模型不支持工具。请去掉 'tools' 再发送。",
    "The served model does not support a thinking budget: it has no token that ends its reasoning.": "当前模型没有结束思考的 token，不能设思考预算。",
    # -- answers that ended early
    "The engine ended this answer without its final event.": "推理引擎没有正常结束此回答。",
    "The connection to the model failed: {}": "与模型的连接失败：{0}",
    "The answer stopped before its end.": "回答在完成之前停止了。",
    "The work on this answer was stopped.": "此回答的处理已被停止。",
    "The engine is shutting down.": "推理引擎正在关闭。",
    "The store of usage does not respond. Retry shortly.": "用量存储没有响应。请稍后重试。",
    "Preprocess has worked on one request for more than {} seconds.": "预处理一个请求超过了 {0} 秒。",
    "The process that decoded a picture was killed twice. Try again shortly.": "解码图片的进程被终止了两次。请稍后重试。",
    "Pictures cannot be decoded: no decoder process can be started.": "无法解码图片：解码进程启动不了。",
}

# What pydantic and our validators say of a value: the code writes "{field} {rule}." and for numbers "…, not {value}.".
RULES: Final[Mapping[str, str]] = {
    "{} must be greater than or equal to {}, not {}.": "{0:zh} 必须大于或等于 {1}，不能是 {2}。",
    "{} must be less than or equal to {}, not {}.": "{0:zh} 必须小于或等于 {1}，不能是 {2}。",
    "{} must be greater than {}, not {}.": "{0:zh} 必须大于 {1}，不能是 {2}。",
    "{} must be a valid string.": "{0:zh} 必须是字符串。",
    "{} must be a valid string, not {}.": "{0:zh} 必须是字符串，不能是 {1}。",
    "{} must be a valid integer.": "{0:zh} 必须是整数。",
    "{} must be a valid integer, not {}.": "{0:zh} 必须是整数，不能是 {1}。",
    "{} must be a valid number.": "{0:zh} 必须是数字。",
    "{} must be a valid number, not {}.": "{0:zh} 必须是数字，不能是 {1}。",
    "{} must be a valid boolean.": "{0:zh} 必须是 true 或 false。",
    "{} must be a valid boolean, not {}.": "{0:zh} 必须是 true 或 false，不能是 {1}。",
    "{} must be a string or a list of parts.": "{0:zh} 必须是字符串或内容部分的列表。",
    "{} must be a string or a list of parts, not {}.": "{0:zh} 必须是字符串或内容部分的列表，不能是 {1}。",
    "{} must be a string or a list of items.": "{0:zh} 必须是字符串或对话项的列表。",
    "{} must be a string or a list of items, not {}.": "{0:zh} 必须是字符串或对话项的列表，不能是 {1}。",
    "{} must be a text, token ids, or a list of texts or of token ids.": "{0:zh} 必须是文本、token id，或者文本或 token id 的列表。",
    "{} must be a text, token ids, or a list of texts or of token ids, not {}.": "{0:zh} 必须是文本、token id，或者文本或 token id 的列表，不能是 {1}。",
    "{} must be the schema of an object.": "{0:zh} 必须是对象的 schema。",
    "{} must be JSON ({}).": "{0:zh} 必须是 JSON（{1}）。",
    "{} must have numbers within the range of 64 bits only.": "{0:zh} 中的数字必须在 64 位范围内。",
    "{} must be {}, not {}.": "{0:zh} 必须是 {1}，不能是 {2}。",
}
