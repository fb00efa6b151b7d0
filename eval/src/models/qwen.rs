//! Qwen, Qwen1.5 and Qwen2 (Alibaba).

use super::{Model, base, chat};

const IM: &[&str] = &["<|im_end|>", "<|im_start|>"];

pub(super) static MODELS: [Model; 34] = [
    base("hf_qwen1_5_0_5b", "qwen1.5-0.5b-hf", "Qwen/Qwen1.5-0.5B"),
    chat("hf_qwen1_5_0_5b_chat", "qwen1.5-0.5b-chat-hf", "Qwen/Qwen1.5-0.5B-Chat").stop_words(IM),
    base("hf_qwen1_5_110b", "qwen1.5-110b-hf", "Qwen/Qwen1.5-110B").num_gpus(8),
    chat("hf_qwen1_5_110b_chat", "qwen1.5-110b-chat-hf", "Qwen/Qwen1.5-110B-Chat").num_gpus(8).stop_words(IM),
    base("hf_qwen1_5_14b", "qwen1.5-14b-hf", "Qwen/Qwen1.5-14B").num_gpus(2),
    chat("hf_qwen1_5_14b_chat", "qwen1.5-14b-chat-hf", "Qwen/Qwen1.5-14B-Chat").num_gpus(2).stop_words(IM),
    base("hf_qwen1_5_1_8b", "qwen1.5-1.8b-hf", "Qwen/Qwen1.5-1.8B"),
    chat("hf_qwen1_5_1_8b_chat", "qwen1.5-1.8b-chat-hf", "Qwen/Qwen1.5-1.8B-Chat").stop_words(IM),
    base("hf_qwen1_5_32b", "qwen1.5-32b-hf", "Qwen/Qwen1.5-32B").num_gpus(2),
    chat("hf_qwen1_5_32b_chat", "qwen1.5-32b-chat-hf", "Qwen/Qwen1.5-32B-Chat").num_gpus(2).stop_words(IM),
    base("hf_qwen1_5_4b", "qwen1.5-4b-hf", "Qwen/Qwen1.5-4B"),
    chat("hf_qwen1_5_4b_chat", "qwen1.5-4b-chat-hf", "Qwen/Qwen1.5-4B-Chat").stop_words(IM),
    base("hf_qwen1_5_72b", "qwen1.5-72b-hf", "Qwen/Qwen1.5-72B").num_gpus(8),
    chat("hf_qwen1_5_72b_chat", "qwen1.5-72b-chat-hf", "Qwen/Qwen1.5-72B-Chat").num_gpus(8).stop_words(IM),
    base("hf_qwen1_5_7b", "qwen1.5-7b-hf", "Qwen/Qwen1.5-7B"),
    chat("hf_qwen1_5_7b_chat", "qwen1.5-7b-chat-hf", "Qwen/Qwen1.5-7B-Chat").stop_words(IM),
    base("hf_qwen1_5_moe_a2_7b", "qwen1.5-moe-a2.7b-hf", "Qwen/Qwen1.5-MoE-A2.7B"),
    chat("hf_qwen1_5_moe_a2_7b_chat", "qwen1.5-moe-a2.7b-chat-hf", "Qwen/Qwen1.5-MoE-A2.7B-Chat").stop_words(IM),
    base("hf_qwen2_0_5b", "qwen2-0.5b-hf", "Qwen/Qwen2-0.5B"),
    chat("hf_qwen2_0_5b_instruct", "qwen2-0.5b-instruct-hf", "Qwen/Qwen2-0.5B-Instruct"),
    base("hf_qwen2_1_5b", "qwen2-1.5b-hf", "Qwen/Qwen2-1.5B"),
    chat("hf_qwen2_1_5b_instruct", "qwen2-1.5b-instruct-hf", "Qwen/Qwen2-1.5B-Instruct"),
    base("hf_qwen2_57b_a14b", "qwen2-57b-a14b-hf", "Qwen/Qwen2-57B-A14B").num_gpus(4),
    base("hf_qwen2_72b", "qwen2-72b-hf", "Qwen/Qwen2-72B").num_gpus(8),
    base("hf_qwen2_7b", "qwen2-7b-hf", "Qwen/Qwen2-7B"),
    chat("hf_qwen2_7b_instruct", "qwen2-7b-instruct-hf", "Qwen/Qwen2-7B-Instruct"),
    base("hf_qwen_14b", "qwen-14b-hf", "Qwen/Qwen-14B").num_gpus(2),
    chat("hf_qwen_14b_chat", "qwen-14b-chat-hf", "Qwen/Qwen-14B-Chat").num_gpus(2).stop_words(IM),
    base("hf_qwen_1_8b", "qwen-1.8b-hf", "Qwen/Qwen-1_8B"),
    chat("hf_qwen_1_8b_chat", "qwen-1.8b-chat-hf", "Qwen/Qwen-1_8B-Chat").stop_words(IM),
    base("hf_qwen_72b", "qwen-72b-hf", "Qwen/Qwen-72B").num_gpus(8),
    chat("hf_qwen_72b_chat", "qwen-72b-chat-hf", "Qwen/Qwen-72B-Chat").num_gpus(8).stop_words(IM),
    base("hf_qwen_7b", "qwen-7b-hf", "Qwen/Qwen-7B"),
    chat("hf_qwen_7b_chat", "qwen-7b-chat-hf", "Qwen/Qwen-7B-Chat").batch_size(4).stop_words(IM),
];
