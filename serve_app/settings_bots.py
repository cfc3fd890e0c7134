"""Settings of the bots: the conversation of all chat platforms; WeCom, DingTalk and Feishu."""

from typing import Literal

from pydantic import Field, model_validator

from serve_app.settings_section import Section

PICTURE_HOST = "ww-aibot-img-1258476243.cos.ap-guangzhou.myqcloud.com"
DINGTALK_HOSTS = ("down.dingtalk.com", "down-cdn.dingtalk.com")


class BotSettings(Section):
    """The conversation of all bots (docs/wecom.md, dingtalk.md, feishu.md); same model, limits and audit as HTTP."""

    enabled: bool = Field(False, description="Starts the bots beside the HTTP API.")
    language: Literal["zh", "en"] = Field("zh", description="Language of the bots' own sentences.")
    names: tuple[str, ...] = Field(
        (), description="Names of the bot in group chats; `@name` is removed from the beginning of a question."
    )
    allowed_users: tuple[str, ...] = Field((), description="User ids that may ask; empty: all.")
    allowed_chats: tuple[str, ...] = Field((), description="Group chat ids in which the bot answers; empty: all.")
    default_question: str = Field(
        "", description="Question about a picture that comes without text; empty: a description is asked for."
    )
    welcome: str = Field("", description="Text that a user sees who opens the chat; empty: a text of the service.")
    system_prompt: str = Field("", description="System message of every question; empty: none.")
    max_tokens: int = Field(1024, ge=1, description="Maximum number of tokens of an answer.")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature; 0: always the most likely token.")
    answer_timeout_s: float = Field(600.0, gt=0, le=3000, description="Longest time for one answer, in seconds.")
    max_running: int = Field(8, ge=1, description="Maximum number of questions that the model answers at once.")
    max_waiting: int = Field(64, ge=0, description="Maximum number of questions that wait; further ones are refused.")
    max_per_user: int = Field(3, ge=1, description="Maximum number of unanswered questions of one user.")
    max_file_bytes: int = Field(10 * 2**20, ge=1024, description="Largest picture or file from a chat, in bytes.")
    fetch_timeout_s: float = Field(15.0, gt=0, le=120, description="Longest time to download a picture, in seconds.")
    memory_s: float = Field(
        600.0, gt=0, le=86400, description="How long the pictures and turns of a chat are remembered, in seconds."
    )
    remembered_turns: int = Field(6, ge=1, le=50, description="Maximum number of remembered questions of a chat.")
    remembered_pictures: int = Field(6, ge=1, le=50, description="Maximum number of remembered pictures of a chat.")
    memory_mib: int = Field(
        256, ge=16, description="Maximum size of remembered pictures and answers in the process of the bots, in MiB."
    )
    group_memory: Literal["user", "chat"] = Field(
        "user", description="Who shares remembered pictures in a group chat: each user has its own, or all have one."
    )
    tenant: str = Field("default", min_length=1, description="Tenant of all bots' users, for limits, cache and audit.")
    state: Literal["memory", "redis"] = Field(
        "memory", description="Where answers in progress are kept; in Redis they survive a restart of the bots."
    )
    redis_url: str = Field(
        "",
        description="State redis: address of the server, `redis://host:6379/0` or `rediss://`; without a password.",
        json_schema_extra={"pattern": "^[^@]*$"},
    )
    redis_password_file: str = Field("", description="State redis: file with the password of the server.")

    @model_validator(mode="after")
    def _redis_has_an_address(self) -> "BotSettings":
        if self.state == "redis" and not self.redis_url:
            raise ValueError("bots.state is redis, so bots.redis_url must have its address.")
        if "@" in self.redis_url:
            raise ValueError("bots.redis_url must not have a password; use bots.redis_password_file.")
        return self


class WecomSettings(Section):
    """The robots of WeCom (docs/wecom.md): AI bot, self-built app and group push. Secrets are paths of files."""

    bot: Literal["off", "webhook", "long_connection"] = Field(
        "off",
        description="The AI bot (智能机器人). webhook: WeCom calls /bots/wecom/bot; long_connection: the service"
        " connects to WeCom and needs no public address.",
    )
    bot_id: str = Field("", description="Id of the AI bot; required for long_connection, checked in callbacks if set.")
    bot_secret_file: str = Field("", description="long_connection: file with the secret of the AI bot.")
    token_file: str = Field("", description="webhook: file with the token of the callback.")
    aes_key_file: str = Field("", description="webhook: file with the EncodingAESKey of the callback, 43 characters.")
    picture_hosts: tuple[str, ...] = Field(
        (PICTURE_HOST,),
        min_length=1,
        description="Exact hosts from which pictures of the AI bot are downloaded, by https; or origins such as"
        " `http://127.0.0.1:9000` of a simulator.",
    )
    corp_id: str = Field("", description="CorpID of the self-built app (自建应用); empty: there is no app.")
    agent_id: int = Field(0, ge=0, description="AgentId of the app.")
    app_secret_file: str = Field("", description="File with the secret of the app.")
    app_token_file: str = Field("", description="File with the token of the app's callback, /bots/wecom/app.")
    app_aes_key_file: str = Field("", description="File with the EncodingAESKey of the app's callback.")
    push_key_file: str = Field(
        "",
        description="File with the key of a group robot (消息推送) to which answered questions of group chats with the"
        " AI bot and of the app are copied; empty: none.",
    )
    replay_window_s: float = Field(
        600.0, ge=10, le=7200, description="Callbacks whose time differs more from this machine's are refused."
    )
    api_url: str = Field("https://qyapi.weixin.qq.com", description="Address of WeCom's API.")
    socket_url: str = Field("wss://openws.work.weixin.qq.com", description="Address of WeCom's long connection.")

    @model_validator(mode="after")
    def _has_its_secrets(self) -> "WecomSettings":
        needed: dict[str, str | int] = {}
        if self.bot == "webhook":
            needed = {"token_file": self.token_file, "aes_key_file": self.aes_key_file}
        if self.bot == "long_connection":
            needed = {"bot_id": self.bot_id, "bot_secret_file": self.bot_secret_file}
        if self.corp_id:
            needed |= {
                "agent_id": self.agent_id,
                "app_secret_file": self.app_secret_file,
                "app_token_file": self.app_token_file,
                "app_aes_key_file": self.app_aes_key_file,
            }
        if missing := [f"wecom.{name}" for name, value in needed.items() if not value]:
            raise ValueError(f"These settings of WeCom are missing: {', '.join(missing)}.")
        return self


class DingtalkSettings(Section):
    """The robot of DingTalk (docs/dingtalk.md). Secrets are paths of files."""

    bot: Literal["off", "stream", "webhook"] = Field(
        "off",
        description="The robot of an internal app (企业内部应用). stream: the service connects to DingTalk and needs no"
        " public address; webhook: DingTalk calls /bots/dingtalk/bot.",
    )
    client_id: str = Field("", description="Client ID (AppKey) of the app.")
    client_secret_file: str = Field("", description="File with the Client Secret (AppSecret) of the app.")
    robot_code: str = Field("", description="RobotCode; empty: the Client ID, which is the same for internal apps.")
    picture_hosts: tuple[str, ...] = Field(
        DINGTALK_HOSTS,
        min_length=1,
        description="Exact hosts from which pictures are downloaded, by https; or origins such as"
        " `http://127.0.0.1:9000` of a simulator.",
    )
    replay_window_s: float = Field(
        600.0, ge=10, le=3600, description="webhook: callbacks whose time differs more from this machine's are refused."
    )
    api_url: str = Field("https://api.dingtalk.com", description="Address of DingTalk's API.")
    reply_url: str = Field(
        "https://oapi.dingtalk.com", description="Address of the session webhooks; replies to other hosts are not sent."
    )

    @model_validator(mode="after")
    def _has_its_secrets(self) -> "DingtalkSettings":
        needed = {"client_id": self.client_id, "client_secret_file": self.client_secret_file}
        missing = [f"dingtalk.{name}" for name, value in needed.items() if not value]
        if self.bot != "off" and missing:
            raise ValueError(f"These settings of DingTalk are missing: {', '.join(missing)}.")
        return self


class FeishuSettings(Section):
    """The bot of Feishu or Lark (docs/feishu.md). Secrets are paths of files."""

    app_id: str = Field("", description="App ID; empty: there is no bot. Feishu calls /bots/feishu/bot.")
    app_secret_file: str = Field("", description="File with the App Secret.")
    encrypt_key_file: str = Field("", description="File with the Encrypt Key of the events.")
    verification_token_file: str = Field("", description="File with the Verification Token of the events.")
    bot_open_id: str = Field(
        "",
        description="open_id of the bot: in groups it answers only messages that mention it; empty: messages that"
        " mention anyone. Needed if the app may read all messages of groups.",
    )
    replay_window_s: float = Field(
        600.0, ge=10, le=7200, description="Events whose time differs more from this machine's are not answered."
    )
    api_url: str = Field(
        "https://open.feishu.cn", description="Address of Feishu's API; Lark: `https://open.larksuite.com`."
    )

    @model_validator(mode="after")
    def _has_its_secrets(self) -> "FeishuSettings":
        needed = {
            "app_secret_file": self.app_secret_file,
            "encrypt_key_file": self.encrypt_key_file,
            "verification_token_file": self.verification_token_file,
        }
        if self.app_id and (missing := [f"feishu.{name}" for name, value in needed.items() if not value]):
            raise ValueError(f"These settings of Feishu are missing: {', '.join(missing)}.")
        return self
