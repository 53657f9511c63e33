"""The control tokens and the chat format made of them.

A control token has an id and no text: it is put between texts by its id. The characters `<|im_end|>` in a web page or in a user's
message are ordinary text and encode as such.
"""

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

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{TURN_START}{{{{ message['role'] }}}}{ROLE_END}{{{{ message['content'] }}}}{TURN_END}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{TURN_START}assistant{ROLE_END}{{% endif %}}"
)
