"""What each error code means, in Chinese: for messages without a translation, and for docs/zh/errors.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CODES: Final[Mapping[str, str]] = {
    "internal_error": "服务处理此请求时出错，调用方无法更正。",
    "invalid_request": "请求无效，或不受支持；`param` 是相应的字段。",
    "context_length_exceeded": "提示词与回答加起来超过了模型的上下文长度。",
    "invalid_image": "图片无法读取、太大、所在地址不允许访问，或下载失败。",
    "invalid_api_key": "请求没有有效的凭据。",
    "permission_denied": "调用方或发出请求的网页没有此权限。",
    "model_not_found": "请求中的模型不是本服务提供的模型。",
    "request_timeout": "请求头或请求体到达得太慢。",
    "request_too_large": "请求体超过上限。",
    "headers_too_large": "请求行和请求头超过上限。",
    "rate_limit_exceeded": "调用方超过了自己的限额。",
    "overloaded": "服务已达到处理上限。",
    "audit_unavailable": "审计日志无法写入，没有审计就不回答。",
    "deadline_exceeded": "回答没有在请求的时限内完成。",
    "engine_error": "模型处理此请求时出错，其他请求不受影响。",
    "replica_lost": "处理此请求的进程已退出，可以重新发送请求。",
    # Those of HTTP itself, which have no class in serve_app/errors.py:
    "not_found": "没有这个地址。",
    "method_not_allowed": "这个地址不支持此 HTTP 方法。",
    "unsupported_media_type": "不支持此内容类型。",
}
