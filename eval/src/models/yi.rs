//! Yi and Yi-1.5 (01.AI).

use super::{Model, base, chat};

pub(super) static MODELS: [Model; 10] = [
    base("hf_yi_1_5_34b", "yi-1.5-34b-hf", "01-ai/Yi-1.5-34B").num_gpus(2),
    chat("hf_yi_1_5_34b_chat", "yi-1.5-34b-chat-hf", "01-ai/Yi-1.5-34B-Chat").num_gpus(2),
    base("hf_yi_1_5_6b", "yi-1.5-6b-hf", "01-ai/Yi-1.5-6B"),
    chat("hf_yi_1_5_6b_chat", "yi-1.5-6b-chat-hf", "01-ai/Yi-1.5-6B-Chat"),
    base("hf_yi_1_5_9b", "yi-1.5-9b-hf", "01-ai/Yi-1.5-9B"),
    chat("hf_yi_1_5_9b_chat", "yi-1.5-9b-chat-hf", "01-ai/Yi-1.5-9B-Chat"),
    base("hf_yi_34b", "yi-34b-hf", "01-ai/Yi-34B").num_gpus(2),
    chat("hf_yi_34b_chat", "yi-34b-chat-hf", "01-ai/Yi-34B-Chat")
        .num_gpus(2)
        .stop_words(&["<|endoftext|>", "<|im_end|>"]),
    base("hf_yi_6b", "yi-6b-hf", "01-ai/Yi-6B"),
    chat("hf_yi_6b_chat", "yi-6b-chat-hf", "01-ai/Yi-6B-Chat").stop_words(&["<|endoftext|>", "<|im_end|>"]),
];
