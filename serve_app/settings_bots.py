"""Settings of the bots: the conversation that all chat platforms share, and the robots of WeCom."""

from typing import Literal

from pydantic import Field, model_validator

from serve_app.settings_section import Section

PICTURE_HOST = "ww-aibot-img-1258476243.cos.ap-guangzhou.myqcloud.com"


class BotSettings(Section):
    """The conversation of all bots (docs/wecom.md). The bots use the same model, limits and audit log as HTTP."""

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
        description="File with the key of a group robot (消息推送) to which every answered question is copied, also of"
        " single chats; empty: none.",
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
