//! Qwen2.5 (Alibaba).

use super::{Model, base, chat};

pub(super) static MODELS: [Model; 10] = [
    chat("hf_qwen2_5_0_5b_instruct", "qwen2.5-0.5b-instruct-hf", "Qwen/Qwen2.5-0.5B-Instruct").max_out_len(4096),
    chat("hf_qwen2_5_14b_instruct", "qwen2.5-14b-instruct-hf", "Qwen/Qwen2.5-14B-Instruct")
        .num_gpus(2)
        .max_out_len(4096),
    chat("hf_qwen2_5_1_5b_instruct", "qwen2.5-1.5b-instruct-hf", "Qwen/Qwen2.5-1.5B-Instruct").max_out_len(4096),
    chat("hf_qwen2_5_32b_instruct", "qwen2.5-32b-instruct-hf", "Qwen/Qwen2.5-32B-Instruct")
        .num_gpus(2)
        .max_out_len(4096),
    chat("hf_qwen2_5_3b_instruct", "qwen2.5-3b-instruct-hf", "Qwen/Qwen2.5-3B-Instruct").max_out_len(4096),
    chat("hf_qwen2_5_72b_instruct", "qwen2.5-72b-instruct-hf", "Qwen/Qwen2.5-72B-Instruct")
        .num_gpus(4)
        .max_out_len(4096),
    chat("hf_qwen2_5_7b_instruct", "qwen2.5-7b-instruct-hf", "Qwen/Qwen2.5-7B-Instruct").max_out_len(4096),
    base("hf_qwen_2_5_14b", "qwen2.5-14b-hf", "Qwen/Qwen2.5-14B").num_gpus(2),
    base("hf_qwen_2_5_32b", "qwen2.5-32b-hf", "Qwen/Qwen2.5-32B").num_gpus(2),
    base("hf_qwen_2_5_7b", "qwen2.5-7b-hf", "Qwen/Qwen2.5-7B"),
];
