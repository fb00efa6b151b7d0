//! InternLM, InternLM2, 2.5 and 3 (Shanghai AI Laboratory).

use super::{Markers, Model, base, causal, chat, marker};

const INTERNLM: &[Markers] = &[marker("HUMAN", "<|User|>:", "\n"), marker("BOT", "<|Bot|>:", "<eoa>\n")];
const SYSTEM: Markers = marker("SYSTEM", "<|im_start|>system\n", "<|im_end|>\n");
const HUMAN: Markers = marker("HUMAN", "<|im_start|>user\n", "<|im_end|>\n");
const BOT: Markers = marker("BOT", "<|im_start|>assistant\n", "<|im_end|>\n");
const SYSTEM_FIRST: &[Markers] = &[SYSTEM, HUMAN, BOT];
const SYSTEM_SECOND: &[Markers] = &[HUMAN, SYSTEM, BOT];

pub(super) static MODELS: [Model; 28] = [
    base("hf_internlm2_1_8b", "internlm2-1.8b-hf", "internlm/internlm2-1_8b"),
    base("hf_internlm2_20b", "internlm2-20b-hf", "internlm/internlm2-20b").num_gpus(2),
    chat("hf_internlm2_5_1_8b_chat", "internlm2_5-1_8b-chat-hf", "internlm/internlm2_5-1_8b-chat").max_out_len(2048),
    chat("hf_internlm2_5_20b_chat", "internlm2_5-20b-chat-hf", "internlm/internlm2_5-20b-chat")
        .num_gpus(2)
        .max_out_len(2048),
    base("hf_internlm2_5_7b", "internlm2_5-7b-hf", "internlm/internlm2_5-7b"),
    chat("hf_internlm2_5_7b_chat", "internlm2_5-7b-chat-hf", "internlm/internlm2_5-7b-chat"),
    base("hf_internlm2_7b", "internlm2-7b-hf", "internlm/internlm2-7b"),
    base("hf_internlm2_base_20b", "internlm2-base-20b-hf", "internlm/internlm2-base-20b").num_gpus(2),
    base("hf_internlm2_base_7b", "internlm2-base-7b-hf", "internlm/internlm2-base-7b"),
    chat("hf_internlm2_chat_1_8b", "internlm2-chat-1.8b-hf", "internlm/internlm2-chat-1_8b"),
    chat("hf_internlm2_chat_1_8b_sft", "internlm2-chat-1.8b-sft-hf", "internlm/internlm2-chat-1_8b-sft"),
    chat("hf_internlm2_chat_20b", "internlm2-chat-20b-hf", "internlm/internlm2-chat-20b").num_gpus(2),
    chat("hf_internlm2_chat_20b_sft", "internlm2-chat-20b-sft-hf", "internlm/internlm2-chat-20b-sft").num_gpus(2),
    causal("hf_internlm2_chat_20b_with_system", "internlm2-chat-20b-hf", "internlm/internlm2-chat-20b")
        .num_gpus(2)
        .meta_template(SYSTEM_FIRST)
        .end_str("<|im_end|>")
        .eos_token_ids(&[2, 92542])
        .batch_padding(),
    chat("hf_internlm2_chat_7b", "internlm2-chat-7b-hf", "internlm/internlm2-chat-7b"),
    chat("hf_internlm2_chat_7b_sft", "internlm2-chat-7b-sft-hf", "internlm/internlm2-chat-7b-sft"),
    causal("hf_internlm2_chat_7b_with_system", "internlm2-chat-7b-hf", "internlm/internlm2-chat-7b")
        .meta_template(SYSTEM_FIRST)
        .end_str("<|im_end|>")
        .eos_token_ids(&[2, 92542])
        .batch_padding(),
    chat("hf_internlm2_chat_math_20b", "internlm2-chat-math-20b-hf", "internlm/internlm2-math-20b")
        .num_gpus(2)
        .stop_words(&["</s>", "<|im_end|>"]),
    causal("hf_internlm2_chat_math_20b_with_system", "internlm2-chat-math-20b-hf", "internlm/internlm2-math-20b")
        .num_gpus(2)
        .meta_template(SYSTEM_SECOND)
        .end_str("<|im_end|>"),
    chat("hf_internlm2_chat_math_7b", "internlm2-chat-math-7b-hf", "internlm/internlm2-math-7b")
        .stop_words(&["</s>", "<|im_end|>"]),
    causal("hf_internlm2_chat_math_7b_with_system", "internlm2-chat-math-7b-hf", "internlm/internlm2-math-7b")
        .meta_template(SYSTEM_SECOND)
        .end_str("<|im_end|>"),
    base("hf_internlm2_math_20b", "internlm2-math-20b-hf", "internlm/internlm2-math-20b").num_gpus(2),
    base("hf_internlm2_math_7b", "internlm2-math-7b-hf", "internlm/internlm2-math-7b"),
    chat("hf_internlm3_8b_instruct", "internlm3-8b-instruct-hf", "internlm/internlm3-8b-instruct").max_out_len(8192),
    base("hf_internlm_20b", "internlm-20b-hf", "internlm/internlm-20b").num_gpus(2),
    base("hf_internlm_7b", "internlm-7b-hf", "internlm/internlm-7b"),
    causal("hf_internlm_chat_20b", "internlm-chat-20b-hf", "internlm/internlm-chat-20b")
        .num_gpus(2)
        .meta_template(INTERNLM)
        .end_str("<eoa>"),
    causal("hf_internlm_chat_7b", "internlm-chat-7b-hf", "internlm/internlm-chat-7b")
        .meta_template(INTERNLM)
        .end_str("<eoa>"),
];
