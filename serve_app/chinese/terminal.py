"""Lines of `glm-serve up`, `ask` and `doctor` in Chinese, by their English templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LINES: Final[Mapping[str, str]] = {
    # -- up
    "starting Ray …": "正在启动 Ray …",
    "glm-serve {}: model {} ({})": "glm-serve {0}：模型 {1}（{2}）",
    "{} ready after {} s": "{0} 已就绪，用时 {1} 秒",
    "ready: {}/v1  (API reference: {}/docs)": "已就绪：{0}/v1  （接口文档：{1}/docs）",
    "model: {}": "模型：{0:zh}",
    "A demo model of 16 million parameters, not a GLM release: it answers only the questions listed in the README, about"
    " pictures like those in benchmarks/evaluation. Answers to other questions are wrong, and JSON schemas of your own get"
    " invented values.": (
        "1600 万参数的演示模型，不是 GLM 的发布模型：只会回答 README 里列出的问题，图片要与 benchmarks/evaluation 里的类似。"
        "问别的问题会得到错误的回答，用自己的 JSON schema 会得到编造的内容。"
    ),
    "metrics: http://{}:{}/metrics": "指标：http://{0}:{1}/metrics",
    "logs in {}; Ctrl-C stops": "日志在 {0}；按 Ctrl-C 停止",
    "stopping: running answers get {} s to finish (press Ctrl-C again to stop at once)": (
        "正在停止：进行中的回答有 {0} 秒时间结束（再按一次 Ctrl-C 立即停止）"
    ),
    "stopped": "已停止",
    "The API listens on {}:{} and accepts requests without a key (access.anonymous): whoever reaches this machine can"
    " use it, unless a firewall or a proxy decides who may connect.": (
        "接口监听 {0}:{1}，不需要密钥就接受请求（access.anonymous）：能连到这台机器的人都能使用，除非防火墙或代理限制了连接。"
    ),
    "{} can be reached from other machines, and there is no authentication: everybody on the network could use the"
    " service. Make a key with `glm-serve keys add NAME --file keys.json` and start with --keys keys.json, or allow it"
    " with --anonymous allow (access.anonymous).": (
        "其他机器可以访问 {0}，但没有身份验证：网络上的任何人都能使用本服务。请用 `glm-serve keys add NAME --file keys.json`"
        " 生成密钥，再用 --keys keys.json 启动；或用 --anonymous allow（access.anonymous）允许匿名访问。"
    ),
    "The file of keys {} does not exist. Make it with `glm-serve keys add NAME --file {}`.": (
        "密钥文件 {0} 不存在。请用 `glm-serve keys add NAME --file {1}` 生成。"
    ),
    "Can't listen on {}:{} ({}). Choose another port with {} ({}).": (
        "无法监听 {0}:{1}（{2}）。请用 {3}（{4}）换一个端口。"
    ),
    "The log folder can't be created: {}. Choose another one with log.folder.": (
        "无法创建日志目录：{0}。请用 log.folder 换一个目录。"
    ),
    "One ingress replica serves {} engine replicas, because callers are counted in its memory. If it needs a full CPU"
    " core, give limits.redis_url, so that several can count together.": (
        "一个 ingress 副本服务 {0} 个 engine 副本，因为调用者在它的内存里计数。如果它占满一个 CPU 核，请设置 limits.redis_url，让多个副本共同计数。"
    ),
    "Each of the {} ingress replicas counts callers for itself: limits are up to {} times as high, and /v1/usage shows a"
    " part. Give limits.redis_url, or set replicas.ingress to 1.": (
        "{0} 个 ingress 副本各自计数：限额最多会放宽到 {1} 倍，/v1/usage 只显示一部分。请设置 limits.redis_url，或把 replicas.ingress 设为 1。"
    ),
    "{} engine replicas need {} GPUs, and {} can be used here. Give --engines {} (replicas.engine), or make more GPUs"
    " visible (CUDA_VISIBLE_DEVICES).": (
        "{0} 个 engine 副本需要 {1} 块 GPU，这里只有 {2} 块可用。请用 --engines {3}（replicas.engine），或让更多 GPU 可见（CUDA_VISIBLE_DEVICES）。"
    ),
    "model.device is cuda, and Ray finds no GPU on this machine. Check that nvidia-smi shows one and that"
    " CUDA_VISIBLE_DEVICES does not hide it, or start with --device cpu.": (
        "model.device 是 cuda，但 Ray 在这台机器上找不到 GPU。请确认 nvidia-smi 能看到 GPU、CUDA_VISIBLE_DEVICES 没有把它隐藏，或用 --device cpu 启动。"
    ),
    "The address {} is not found ({}). Give --host (http.host) an address of this machine.": (
        "找不到地址 {0}（{1}）。请给 --host（http.host）一个本机地址。"
    ),
    "The logs are in {}.": "日志在 {0}。",
    "The model folder {} does not exist.": "模型目录 {0} 不存在。",
    "The model folder {} has no config.json.": "模型目录 {0} 里没有 config.json。",
    "The environment variable {} is not a setting.{}": "环境变量 {0} 不是设置。{1:zh}",
    " Did you mean {}?": "是不是 {0}？",
    " docs/settings.md lists all settings.": "全部设置见 docs/settings.md。",
    "The setting {} is {}. {}.": "设置 {0} 的值是 {1}。{2}。",
    "A list or an object in the environment is not JSON ({}). Write it as in"
    """ GLM_MODEL__ALIASES='["first", "second"]'.""": (
        """环境变量里的列表或对象不是 JSON（{0}）。请这样写：GLM_MODEL__ALIASES='["first", "second"]'。"""
    ),
    # -- ask
    "No service answers at {}. Start one with `glm-serve up`.": "{0} 没有服务响应。请用 `glm-serve up` 启动。",
    "The connection to {} failed: {}.": "与 {0} 的连接失败：{1}。",
    "{} is not the URL of a service: {}.": "{0} 不是服务的地址：{1}。",
    "Can't read the picture {}: {}. The pictures come first, the question is the last argument, in quotation marks.": (
        "无法读取图片 {0}：{1}。图片写在前面，问题是最后一个参数，用引号括起来。"
    ),
    "The question is missing: the last argument, {}, is a picture. Write the question after it: glm-serve ask {}"
    ' "What is the number?"': '缺少问题：最后一个参数 {0} 是图片。请把问题写在后面：glm-serve ask {1} "运单号是多少？"',
    "The question is empty.": "问题是空的。",
    "The answer is empty.": "回答是空的。",
    "The answer was cut{}; --max-tokens N sets the limit.": "回答被截断{0:zh}；用 --max-tokens N 设置上限。",
    " after {} tokens": "（{0} 个 token 之后）",
    "The file of --key-file can't be read: {}.": "无法读取 --key-file 指定的文件：{0}。",
    "The file of --key-file has characters that no API key has. It must have one key: ASCII letters, digits and punctuation"
    " in one line.": "--key-file 指定的文件里有 API 密钥不会有的字符。文件里必须只有一个密钥：一行 ASCII 字母、数字和标点。",
    # -- doctor: titles and the result; findings are English
    "Software": "软件",
    "Machine": "机器",
    "Device": "计算设备",
    "Model": "模型",
    "Memory": "内存和显存",
    "Can't serve: {}{}.": "不能运行：{0:zh}{1:zh}。",
    "Can serve, as far as can be checked without the model's files{}.": "没有模型文件，其余检查通过，可以运行{0:zh}。",
    "The model's files that are here have no problem; this machine was not checked{}.": "已有的模型文件没有问题；未检查本机{0:zh}。",
    "Can serve {}: {}, with {}{}.": "可以运行 {0}：{1}，{2:zh}{3:zh}。",
}
