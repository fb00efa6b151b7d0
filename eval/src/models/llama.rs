//! LLaMA, Llama 2, 3, 3.1 and 3.2 (Meta).

use super::{Model, base, chat};

const STOP: &[&str] = &["<|end_of_text|>", "<|eot_id|>"];

/// Without a system role no line break is added to what the user says.
const HUMAN_BOT: &[&str] = &["HUMAN", "BOT"];

pub(super) static MODELS: [Model; 18] = [
    base("hf_llama2_13b", "llama-2-13b-hf", "meta-llama/Llama-2-13b-hf").num_gpus(2),
    chat("hf_llama2_13b_chat", "llama-2-13b-chat-hf", "meta-llama/Llama-2-13b-chat-hf").num_gpus(2),
    base("hf_llama2_70b", "llama-2-70b-hf", "meta-llama/Llama-2-70b-hf").num_gpus(8),
    chat("hf_llama2_70b_chat", "llama-2-70b-chat-hf", "meta-llama/Llama-2-70b-chat-hf").num_gpus(4),
    base("hf_llama2_7b", "llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
    chat("hf_llama2_7b_chat", "llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-chat-hf"),
    chat("hf_llama3_1_70b_instruct", "llama-3_1-70b-instruct-hf", "meta-llama/Meta-Llama-3.1-70B-Instruct")
        .num_gpus(4)
        .max_out_len(4096)
        .stop_words(STOP),
    base("hf_llama3_1_8b", "llama-3_1-8b-hf", "meta-llama/Meta-Llama-3.1-8B-Instruct"),
    chat("hf_llama3_1_8b_instruct", "llama-3_1-8b-instruct-hf", "meta-llama/Meta-Llama-3.1-8B-Instruct")
        .stop_words(STOP)
        .messages(HUMAN_BOT),
    chat("hf_llama3_2_3b_instruct", "llama-3_2-3b-instruct-hf", "meta-llama/Llama-3.2-3B-Instruct").stop_words(STOP),
    base("hf_llama3_70b", "llama-3-70b-hf", "meta-llama/Meta-Llama-3-70B").num_gpus(8),
    chat("hf_llama3_70b_instruct", "llama-3-70b-instruct-hf", "meta-llama/Meta-Llama-3-70B-Instruct")
        .num_gpus(4)
        .stop_words(STOP),
    base("hf_llama3_8b", "llama-3-8b-hf", "meta-llama/Meta-Llama-3-8B"),
    chat("hf_llama3_8b_instruct", "llama-3-8b-instruct-hf", "meta-llama/Meta-Llama-3-8B-Instruct").stop_words(STOP),
    base("hf_llama_13b", "llama-13b-hf", "huggyllama/llama-13b").num_gpus(2),
    base("hf_llama_30b", "llama-30b-hf", "huggyllama/llama-30b").num_gpus(4),
    base("hf_llama_65b", "llama-65b-hf", "huggyllama/llama-65b").num_gpus(8),
    base("hf_llama_7b", "llama-7b-hf", "huggyllama/llama-7b"),
];
