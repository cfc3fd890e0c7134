"""Error messages of the API in Chinese, by their English templates; a test compares them with the code.

A key is the f-string of the code with `{}` for each value. `{0}` in the Chinese text is the first value as it is,
`{0:zh}` the same translated if it is a text of this catalogue, such as a reason or a unit. Messages that are not here
are sent in English after a Chinese sentence about their code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SENTENCES: Final[Mapping[str, str]] = {
    # -- credentials and limits
    "The request has no API key. Send one as 'Authorization: Bearer KEY', or in the header api-key or x-api-key.": (
        "请求没有 API 密钥。请用请求头 'Authorization: Bearer 密钥'、api-key 或 x-api-key 发送。"
    ),
    "The API key is not valid.": "API 密钥无效。",
    "The API key expired at {} UTC.": "API 密钥已于 {0}（UTC）过期。",
    "The API key has more than {} characters.": "API 密钥超过 {0} 个字符。",
    "The Authorization header is not 'Bearer' and an API key.": "请求头 Authorization 的内容不是 'Bearer' 加 API 密钥。",
    "The service listens on an address beyond this machine and has no authentication. Its operator has to set"
    " access.keys_file or jwt.keys, or access.anonymous to 'allow'.": (
        "服务监听本机以外的地址，但没有配置身份验证。请运维人员设置 access.keys_file 或 jwt.keys，或把 access.anonymous 设为 'allow'。"
    ),
    "The token has expired.": "令牌已过期。",
    "The token is not valid yet.": "令牌尚未生效。",
    "The token is not valid.": "令牌无效。",
    "The token is signed with a key that is not known.": "签署令牌的密钥未知。",
    "The token is not signed in a way that this service accepts.": "令牌的签名方式不被本服务接受。",
    "The widget token is not valid.": "小组件令牌无效。",
    "The widget token has expired. Get a new one from the site's back end.": "小组件令牌已过期，请向网站后端获取新令牌。",
    "The widget token is for pages of {}; a page of {} sent it.": "小组件令牌只供 {0} 的网页使用，但发送它的是 {1} 的网页。",
    "The widget token is for pages of {}; the request has no Origin.": "小组件令牌只供 {0} 的网页使用，但请求没有 Origin 请求头。",
    "This route needs the scope '{}'; the credentials have {}.": "此接口需要权限范围 '{0}'，当前凭据只有 {1}。",
    "{}; {} are left, and this request needs {}.": "{0:zh}；还剩 {1}，本次请求需要 {2}。",
    "{}; this request needs {} and can never be accepted.": "{0:zh}；本次请求需要 {1}，永远不会被接受。",
    "{} may use {} {} in {} seconds": "{0:zh}每 {3} 秒最多使用 {1} {2:zh}",
    "{} has {} requests in progress, its limit. Retry when one of them has ended.": (
        "{0:zh}进行中的请求已达上限 {1} 个，请等其中一个结束后重试。"
    ),
    "Pages of {} may not use this service. Add the origin to the setting http.allowed_origins if they should.": (
        "来自 {0} 的网页不能使用本服务。如需允许，请把该来源加到设置 http.allowed_origins。"
    ),
    "The Host header is {}, which is not a name of this service. Add it to the setting http.allowed_hosts if it is.": (
        "请求头 Host 是 {0}，不是本服务的名字。如果是，请把它加到设置 http.allowed_hosts。"
    ),
    "The token requires extensions that this service does not have.": "令牌要求的扩展本服务不支持。",
    "The token's key id is not valid.": "令牌的密钥 id 无效。",
    "Pages of {} may not call this service. Its operator has to add the origin to the setting http.allowed_origins.": (
        "来自 {0} 的网页不能调用本服务。请运维人员把该来源加到设置 http.allowed_origins。"
    ),
    # -- load, time and state of the service
    "The service has {} requests in progress, and a new one would take about {} seconds (the limit is {}). Retry"
    " later.": "服务正在处理 {0} 个请求，新请求大约需要 {1} 秒（上限 {2} 秒）。请稍后重试。",
    "{} are taken and {} requests are waiting. Try again shortly.": "没有空闲的处理位置，还有 {1} 个请求在排队。请稍后重试。",
    "The queue of the service is full. Try again shortly.": "服务的队列已满，请稍后重试。",
    "No replica responded within {} s.": "{0} 秒内没有副本响应。",
    "The machine has no memory left for this request.": "机器没有足够的内存处理此请求。",
    "{} pictures are waiting to be decoded, which is the limit. Try again shortly.": (
        "等待解码的图片已达上限 {0} 张，请稍后重试。"
    ),
    "{} pictures are being fetched or waiting, the limit. Try again shortly.": (
        "正在下载或等待下载的图片已达上限 {0} 张，请稍后重试。"
    ),
    "With this request, the pictures of all requests in progress would take more than {} MiB, the limit"
    " (preprocess.max_bytes_in_flight). Try again shortly.": (
        "加上此请求，所有进行中请求的图片会超过上限 {0} MiB（preprocess.max_bytes_in_flight）。请稍后重试。"
    ),
    "The requests in progress hold {} of bodies, the limit of this service. Try again shortly, or send smaller"
    " pictures.": "进行中的请求体已占用 {0}，达到服务上限。请稍后重试，或发送更小的图片。",
    "The virus scanner does not respond, so uploads are refused. Try again later.": (
        "病毒扫描程序没有响应，暂不接受上传。请稍后重试。"
    ),
    "The audit log can't be written, and no answer is given without it. Try again later.": (
        "审计日志无法写入，没有审计就不回答。请稍后重试。"
    ),
    "The audit log does not respond, and no answer is given without it.": "审计日志没有响应，没有审计就不回答。",
    "The audit log is too slow for the load. Try again later.": "审计日志的写入速度跟不上负载，请稍后重试。",
    "A stage has no replica that responds within {} s; the model may still be loading.": (
        "有一个环节没有副本在 {0} 秒内响应；模型可能还在加载。"
    ),
    "The request was not prepared within its {} seconds (http.request_timeout_s).": (
        "请求没有在 {0} 秒内准备好（http.request_timeout_s）。"
    ),
    "The request was not tokenized within {} s, its limit.": "请求没有在 {0} 秒的时限内完成分词。",
    "The answer was not complete within {} s, its limit.": "回答没有在 {0} 秒的时限内完成。",
    "A stage of this request took longer than allowed.": "此请求的一个环节超过了时限。",
    # -- failures
    "The service failed on this request; its log has the reason under {}.": "服务处理此请求时出错；原因在日志中，编号 {0}。",
    "The model failed on this request.": "模型处理此请求时出错。",
    "The model is not running. The service's log has the reason.": "模型没有运行，原因在服务的日志中。",
    "The GPU ran out of memory on this request. Smaller pictures need less memory.": (
        "处理此请求时显存不足。更小的图片需要的显存更少。"
    ),
    "The model produced infinite or NaN logits for this request.": "模型对此请求算出了无穷大或 NaN。",
    "The engine has stopped; the replica is being replaced.": "推理引擎已停止，正在更换副本。",
    "The replica that worked on this request died; a new one is being started.": (
        "处理此请求的副本已退出，正在启动新的副本。"
    ),
    "The replica that worked on this request was stopped.": "处理此请求的副本已被停止。",
    "The replica that worked on this answer was stopped.": "生成此回答的副本已被停止。",
    "The service was stopped before the answer was complete.": "服务在回答完成之前停止了。",
    # -- bodies and fields
    "The body is larger than {}, the limit of this service. Send fewer or smaller pictures.": (
        "请求体超过服务上限 {0}。请减少图片，或发送更小的图片。"
    ),
    "The body must be a JSON object.": "请求体必须是 JSON 对象。",
    "There is no {} here; /docs lists the routes.": "没有 {0} 这个接口；所有接口见 /docs。",
    "{} is not possible; {} takes {}.": "不支持 {0}；{1} 接受 {2}。",
    "The model '{}' is not served here; this service has '{}'.": "本服务没有模型 '{0}'，只有 '{1}'。",
    "'{}' is not a field of this request.{}": "'{0}' 不是此请求的字段。{1:zh}",
    " The nearest field is '{}'.": "最接近的字段是 '{0}'。",
    "'{}' is not supported by this service{}.": "本服务不支持 '{0}'{1:zh}。",
    "{} is required.": "缺少 {0:zh}。",
    "{} must be an object.": "{0:zh} 必须是对象。",
    "{} must be a list.": "{0:zh} 必须是列表。",
    "{} is not supported; leave it out.": "不支持 {0:zh}，请去掉。",
    "'question' is empty. Ask something about the picture.": "'question' 是空的。请就图片提出问题。",
    "'image' is required: a picture or a PDF as a file upload.": "缺少 'image'：请以文件形式上传图片或 PDF。",
    "'{}' must be a file upload, not text.": "'{0}' 必须是上传的文件，不能是文本。",
    "'{}' must be text, not a file.": "'{0}' 必须是文本，不能是文件。",
    "'{}' is given more than once.": "'{0}' 出现了多次。",
    "'{}' is empty: the upload has 0 bytes.": "'{0}' 是空的：上传了 0 字节。",
    "The question is empty: {} has no text.": "问题是空的：{0} 没有文本。",
    "The conversation has no message, so there is no question.": "对话里没有消息，也就没有问题。",
    "The conversation has {} pictures; the served model accepts at most {} in a conversation. Remove the others.": (
        "对话里有 {0} 张图片；当前模型的一次对话最多接受 {1} 张。请去掉其余的图片。"
    ),
    "The request has {} pictures; the limit is {}. Send fewer pictures.": "请求有 {0} 张图片，上限是 {1} 张。请减少图片。",
    "'n' is {}; this service gives {} answers at most.": "'n' 是 {0}；本服务最多给出 {1} 个回答。",
    "'tool_choice' requires a call, but there are no 'tools'.": "'tool_choice' 要求调用工具，但没有 'tools'。",
    "The served model always thinks; thinking cannot be disabled.": "当前模型总会思考，不能关闭。",
    "The served model does not support thinking. Send the request without it.": "当前模型不支持思考，请去掉相应字段。",
    "The form has {} files and pictures, but {} fields 'pages'. Give one for each, in their order; an empty one means all"
    " pages.": "表单有 {0} 个文件和图片，却有 {1} 个 'pages' 字段。请按顺序每个文件给一个；空的表示全部页。",
    "'{}' must be a file upload: its part needs a filename.": "'{0}' 必须是上传的文件：这一部分需要 filename。",
    "'{}' has the Content-Transfer-Encoding {}; send its bytes as they are, without this header.": (
        "'{0}' 的 Content-Transfer-Encoding 是 {1}；请去掉这个头，原样发送字节。"
    ),
    "The form ends before the closing boundary. Send the complete form.": "表单中断，缺少结束的 boundary。请发送完整的表单。",
    "The form ends inside the part '{}', before the closing boundary. Send the complete form.": (
        "表单在 '{0}' 这一部分中断，缺少结束的 boundary。请发送完整的表单。"
    ),
    "The body has the Content-Encoding {}; send it without compression.": (
        "请求体的 Content-Encoding 是 {0}；请不要压缩。"
    ),
    "The body is empty. Send a JSON object.": "请求体是空的。请发送一个 JSON 对象。",
    "'{}' is a file; only 'image' and 'file' may be one.": "'{0}' 是文件；只有 'image' 和 'file' 可以是文件。",
    "The form can't be read: {}.": "表单无法读取：{0}。",
    "The text of '{}' is not UTF-8; encode the form as UTF-8.": "'{0}' 的文本不是 UTF-8；请用 UTF-8 编码表单。",
    "'{}' has {} of the fields 'url', 'image', 'base64' and 'data'; it must have one, with the picture or its address.": "'{0}' 含有 'url'、'image'、'base64'、'data' 中的 {1} 个字段；必须恰好有一个，内容为图片或其地址。",
    "'{}.file_id' is not supported: this service keeps no files. Send the file as 'file_data'.": (
        "不支持 '{0}.file_id'：本服务不保存文件。请用 'file_data' 发送文件。"
    ),
    "'{}.file_data' is required: the file as base64.": "缺少 '{0}.file_data'：文件的 base64。",
    "'{}' has both 'file_data' and 'file_url'; send one of them.": "'{0}' 同时有 'file_data' 和 'file_url'；请只发送一个。",
    "'{}' is '{}'; it must name pages from 1 and ranges of them, such as '1-3,7' or '5-', {} at most.": (
        "'{0}' 是 '{1}'；应为从 1 开始的页码和范围，例如 '1-3,7' 或 '5-'，最多 {2} 个。"
    ),
    "'max_tokens' and 'max_completion_tokens' differ; they mean the same, so give one of them.": (
        "'max_tokens' 和 'max_completion_tokens' 的值不同；两者含义相同，请只给一个。"
    ),
    "'top_logprobs' is only for a request with 'logprobs': true.": "'top_logprobs' 只能用于 'logprobs': true 的请求。",
    "'{}' and '{}' exclude each other; give one of them.": "'{0}' 和 '{1}' 不能同时使用；请只给一个。",
    "'{}' contradicts '{}'; give one of them.": "'{0}' 与 '{1}' 矛盾；请只给一个。",
    "'{}' names a function that is not in 'tools'.": "'{0}' 指定的函数不在 'tools' 中。",
    "'{}' is '{}' for the second time; names must differ.": "'{0}' 第二次出现 '{1}'；名字不能重复。",
    "The served model does not support tools, so none can be required.": "当前模型不支持工具，不能要求调用工具。",
    "{} is a message of the {} with a picture. Only user messages and results of tools may have pictures.": (
        "{0} 是 {1} 的消息，却带有图片。只有用户消息和工具结果可以带图片。"
    ),
    "A thinking budget needs thinking to be enabled.": "设思考预算需要先启用思考。",
    "The served model does not support a thinking budget. Send the request without it.": (
        "当前模型不支持思考预算，请去掉相应字段。"
    ),
    "min_tokens is {}; this answer may have at most {} tokens. Lower min_tokens.": (
        "min_tokens 是 {0}；此回答最多 {1} 个 token。请减小 min_tokens。"
    ),
    "'{}' has {} entries; the limit is {}.": "'{0}' 有 {1} 项，上限是 {2} 项。",
    "The body has more than {} values, the limit.": "请求体超过 {0} 个值的上限。",
    "max_tokens is {}; it must be at least 1.": "max_tokens 是 {0}，至少为 1。",
}

# What is wrong with a picture or file: the code writes "Picture 2 {reason}." or "Page 3 of file 2 {reason}.".
REASONS: Final[Mapping[str, str]] = {
    "is {} MiB; the limit is {} MiB. Send a smaller file": "有 {0} MiB，上限是 {1} MiB。请发送更小的文件",
    "is {} megapixels ({} x {}); the limit is {}. Send a smaller picture": (
        "有 {0} 百万像素（{1} x {2}），上限是 {3}。请发送更小的图片"
    ),
    "brings the request's pictures to {} megapixels; the limit of a request is {}. Send fewer or smaller pictures": (
        "使请求的图片总共达到 {0} 百万像素，一个请求的上限是 {1}。请减少图片，或发送更小的图片"
    ),
    "is a damaged or incomplete {} file. Send the complete file": "是损坏或不完整的 {0} 文件。请发送完整的文件",
    "is {}. {}; accepted are {}": "是{0:zh}。{1:zh}；接受的格式有 {2}",
    "is a protected PDF that this service can't open. Remove the protection": "是受保护的 PDF，无法读取。请去掉保护再发送",
    "is a PDF that needs a password. Send it without one": "是带密码的 PDF。请去掉密码再发送",
    "is a damaged or incomplete PDF. Send the complete file": "是损坏或不完整的 PDF。请发送完整的文件",
    "is a PDF without pages": "是没有页面的 PDF",
    "gives {} pages; the limit is {}. Send fewer of them": "有 {0} 页，上限是 {1} 页。请减少页数",
    "is not valid base64. Use A-Z, a-z, 0-9, + and /, with = at the end": "不是有效的 base64",
    "must be a data: URL, an http(s) address or the base64 of a picture or PDF": (
        "必须是 data: URL、http(s) 地址，或图片、PDF 的 base64"
    ),
    "is at {}, which is not a public address. Send the picture itself": "位于 {0}，不是公网地址。请直接发送图片",
    "could not be fetched: {} answered with status {}": "下载失败：{0} 返回状态码 {1}",
    "could not be fetched: no connection to {}": "下载失败：连接不上 {0}",
    "could not be fetched within {} seconds. Send the picture itself": "没有在 {0} 秒内下载完。请直接发送图片",
    "has the unknown host {}. Check the address": "的主机名 {0} 无法解析。请检查地址",
    'is a data: URL without base64. It must begin like "data:image/png;base64,"': (
        '是没有 base64 的 data: URL。开头应为 "data:image/png;base64,"'
    ),
    "is a grey HEIC file of more than 8 bits. Convert it to JPEG or PNG": "是 8 位以上的灰度 HEIC 文件。请转换成 JPEG 或 PNG",
    "is a damaged {} file: its size differs between header and pixels. Save it again": (
        "是损坏的 {0} 文件：文件头与像素的尺寸不一致。请重新保存"
    ),
    "has 32-bit or signed pixels. Save it with 8 or 16 bits per channel and without negative values": (
        "的像素是 32 位或带符号的。请发送每通道 8 位或 16 位、不带符号的图片"
    ),
    "is a {} file of a rare kind that this service can't read. Save it as an ordinary PNG or JPEG": (
        "是本服务无法读取的少见 {0} 类型的文件。请另存为普通的 PNG 或 JPEG"
    ),
    "has more pixels than the limit of {} megapixels": "的像素超过上限 {0} 百万",
    "has no pixels ({} x {})": "没有像素（{0} x {1}）",
    "cannot be decoded: it crashes the decoder. Save it again as PNG or JPEG": (
        "无法解码：它会使解码程序崩溃。请另存为 PNG 或 JPEG"
    ),
    "needs more memory than a decoder has. Send a smaller file": "需要的内存超过解码程序所有。请发送更小的文件",
    "is a progressive JPEG of {} scans; the limit is {}. Save it as a baseline JPEG": (
        "是有 {0} 次扫描的渐进式 JPEG，上限是 {1} 次。请另存为基线 JPEG"
    ),
    "is a TIFF of {} strips or tiles; the limit is {}. Save it as PNG": (
        "是有 {0} 个条带或图块的 TIFF，上限是 {1} 个。请另存为 PNG"
    ),
    "is a {} file of {} megapixels in a compression that is decoded slowly; the limit for it is {}. Save it as PNG or"
    " JPEG": "是 {1} 百万像素的 {0} 文件，其压缩方式解码很慢，上限是 {2} 百万像素。请另存为 PNG 或 JPEG",
    "is not decoded: the pictures before it took the {} seconds of CPU time of a request. Send fewer or smaller"
    " pictures": "没有解码：它前面的图片已用完一个请求的 {0} 秒 CPU 时间。请减少图片，或发送更小的图片",
    "is {} x {}; one side may be at most {} times the other. Crop it": (
        "是 {0} x {1}；长边最多是短边的 {2} 倍。请裁剪图片"
    ),
    "takes {} tokens at its original size, {} x {}; the limit is {}. Send a smaller picture or another detail": (
        "按原始尺寸 {1} x {2} 需要 {0} 个 token，上限是 {3} 个。请发送更小的图片，或改用其他 detail"
    ),
    "is {} x {}; this model sees every picture at {} x {} ({} tokens). Send another detail than original": (
        "是 {0} x {1}；当前模型看到的图片都是 {2} x {3}（{4} 个 token）。请不要使用 detail original"
    ),
    "is no PDF, and only a PDF has pages. Leave them out": "不是 PDF，只有 PDF 才有页码。请去掉页码",
    "has {}; '{}' asks for {}": "有 {0:zh}，而 '{1}' 要求{2:zh}",
    "is behind more than {} redirects": "经过的重定向超过 {0} 次",
    "has a {} address. Only http and https are fetched": "的地址是 {0} 协议；只下载 http 和 https 地址",
    "has an address without a host or with a user name. Send a plain http(s) address": (
        "的地址没有主机名，或带有用户名。请发送普通的 http(s) 地址"
    ),
    "has an address with port {}. Only ports 80 and 443 are fetched": "的地址使用端口 {0}；只下载端口 80 和 443 的地址",
    "has an address that is not a valid URL": "的地址不是有效的 URL",
    "is at {}, whose address was not found within {} seconds. Send the picture itself": (
        "位于 {0}，没有在 {1} 秒内查到它的 IP 地址。请直接发送图片"
    ),
    "is redirected by {} to an address that is not a valid URL": "被 {0} 重定向到无效的 URL",
    "could not be fetched from {}": "无法从 {0} 下载",
    "could not be fetched completely from {}": "没有从 {0} 下载完整",
    "is more than {} MiB, the limit. Send a smaller file": "超过上限 {0} MiB。请发送更小的文件",
    "is refused: the virus scanner found {} in it": "被拒绝：病毒扫描程序在其中发现 {0}",
    "takes more than {} seconds of CPU time to decode, the limit. Save it as PNG or baseline JPEG": (
        "的解码超过 {0} 秒 CPU 时间的上限。请另存为 PNG 或基线 JPEG"
    ),
}

# Parts of sentences, for `{0:zh}`.
PHRASES: Final[Mapping[str, str]] = {
    "requests": "个请求",
    "tokens": "个 token",
    "pictures": "张图片",
    "1 page": "1 页",
    "the end": "最后一页",
    "is the result of a tool": "是工具的结果",
    "calls a tool": "调用了工具",
    "it is the placeholder of a picture": "它是图片的占位符",
    "problem": "问题",
    "warning": "警告",
    "slot": "处理位置",
    "The body": "请求体",
    "a camera's raw file": "相机的 RAW 文件",
    "base64 that was encoded twice": "编码了两次的 base64",
    "Encode the file once": "请只对文件编码一次",
    "a video file": "视频文件",
    "Send one frame of it as JPEG or PNG": "请发送其中一帧，JPEG 或 PNG 格式",
    "a JPEG XL or JPEG 2000 file": "JPEG XL 或 JPEG 2000 文件",
    "Convert it to JPEG or PNG": "请转换成 JPEG 或 PNG",
    "an SVG drawing": " SVG 图形",
    "Export it as PNG": "请导出为 PNG",
    "a web page": "网页",
    "Send a screenshot, or the address of the picture itself": "请发送截图，或图片本身的地址",
    "an office document or archive": "Office 文档或压缩包",
    "Save it as PDF": "请另存为 PDF",
    "a text": "文本",
    "Send it as a text part of the message": "请作为消息的文本部分发送",
    "not a picture of a known format": "未知格式的文件",
}
