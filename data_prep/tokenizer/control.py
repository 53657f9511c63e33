"""The control tokens, and the chat formats made of them and of other people's.

A control token has an id and no text: it is put between texts by its id. The characters `<|im_end|>` in a web page or in a user's
message are ordinary text and encode as such.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_prep.tokenizer.encoder import Tokenizer

END_OF_DOCUMENT = "<|endoftext|>"
PAD = "<|pad|>"
TURN_START = "<|im_start|>"
ROLE_END = "<|im_sep|>"
TURN_END = "<|im_end|>"

# In the order of their ids, which begin after the unknown piece's 0. Append only: the ids of published models depend on it.
CONTROL_TOKENS = (
    END_OF_DOCUMENT,
    PAD,
    TURN_START,
    ROLE_END,
    TURN_END,
    "<|tool_call|>",
    "<|tool_call_end|>",
    "<|tool_result|>",
    "<|tool_result_end|>",
)


@dataclass(frozen=True)
class ChatMarks:
    """A chat format, as what stands around the turns of a conversation: control tokens, put by their ids, and text.

    begin     control token before the first turn, if any
    start     control token before a turn's role
    role_end  between role and content: control tokens, or text that is no control token
    end       control token after the content, which ends an answer
    between   text between two turns
    """

    name: str
    start: str
    role_end: tuple[str, ...]
    end: str
    begin: str = ""
    between: str = ""

    def control(self) -> tuple[str, ...]:
        """The control tokens that a tokenizer must have."""
        return tuple(mark for mark in (self.begin, self.start, *self.role_end, self.end) if mark.startswith("<|"))

    def text(self) -> tuple[str, ...]:
        """What stands beside roles and contents as text."""
        return tuple(part for part in (*self.role_end, self.between) if part and part not in self.control())

    def template(self) -> str:
        """The same as a chat template of transformers, in Jinja."""
        role_end = "".join(self.role_end)
        between = f"{{{{ {json.dumps(self.between)} }}}}" if self.between else ""  # Jinja drops a newline after a block's tag
        return (
            f"{self.begin}{{% for message in messages %}}"
            + (f"{{% if not loop.first %}}{between}{{% endif %}}" if between else "")
            + f"{self.start}{{{{ message['role'] }}}}{role_end}{{{{ message['content'] }}}}{self.end}"
            "{% endfor %}"
            f"{{% if add_generation_prompt %}}{between}{self.start}assistant{role_end}{{% endif %}}"
        )


OWN_CHAT = ChatMarks("crawl2chat", start=TURN_START, role_end=(ROLE_END,), end=TURN_END)
CHAT_FORMATS = (
    OWN_CHAT,
    ChatMarks("chatml", start=TURN_START, role_end=("\n",), end=TURN_END, between="\n"),
    ChatMarks("llama3", begin="<|begin_of_text|>", start="<|start_header_id|>", role_end=("<|end_header_id|>", "\n\n"), end="<|eot_id|>"),
)


def chat_marks(tokenizer: Tokenizer) -> ChatMarks | None:
    """The first of CHAT_FORMATS whose control tokens the tokenizer has. None, too, where it encodes text in parts as something else
    than as a whole, since parts are what is trained on here, and the whole what a template gives elsewhere."""
    marks = next((marks for marks in CHAT_FORMATS if all(mark in tokenizer.control for mark in marks.control())), None)
    for text in marks.text() if marks else ():
        if tokenizer.encode(f"user{text}Hi") != [number for part in ("user", text, "Hi") for number in tokenizer.encode(part)]:
            return None
    return marks
