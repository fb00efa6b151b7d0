//! OpenCompass's collections of datasets, by the names of their members there, whether these exist here or not.

/// A collection and its members, in order.
pub(super) struct Collection {
    /// E.g. `base_medium`.
    pub name: &'static str,
    /// Configurations, separated by spaces.
    members: &'static str,
}

/// Collections in the folder `leaderboard` of the others'.
const LEADERBOARD: [&str; 2] = ["qwen", "qwen_chat"];

impl Collection {
    /// The names of its members.
    pub fn members(&self) -> impl Iterator<Item = &'static str> {
        self.members.split_whitespace()
    }

    /// OpenCompass's file below `configs/datasets`.
    pub fn file(&self) -> String {
        let folder = if LEADERBOARD.contains(&self.name) { "leaderboard/" } else { "" };
        format!("collections/{folder}{}.py", self.name)
    }
}

/// The collection of this name.
pub(super) fn find(name: &str) -> Option<&'static Collection> {
    COLLECTIONS.iter().find(|collection| collection.name == name)
}

/// All collections.
pub(super) static COLLECTIONS: [Collection; 10] = [
    Collection {
        name: "base_medium",
        members: "mmlu_ppl_ac766d ceval_ppl_578f8d agieval_mixed_713d14 GaokaoBench_mixed_9af5ee bbh_gen_5b92b0 \
                  humaneval_gen_8e312c deprecated_mbpp_gen_1e1056 CLUE_C3_ppl_e24a31 CLUE_CMRC_gen_1bd3c8 \
                  CLUE_DRCD_gen_1bd3c8 CLUE_afqmc_ppl_6507d7 CLUE_cmnli_ppl_fdc6de CLUE_ocnli_ppl_fdc6de \
                  FewCLUE_bustm_ppl_e53034 FewCLUE_chid_ppl_8f2872 FewCLUE_cluewsc_ppl_4284a0 \
                  FewCLUE_csl_ppl_841b62 FewCLUE_eprstmt_ppl_f1e631 FewCLUE_ocnli_fc_ppl_c08300 \
                  FewCLUE_tnews_ppl_d10e8a lcsts_gen_8ee1fe lambada_gen_217e11 storycloze_ppl_496661 \
                  SuperGLUE_AX_b_ppl_6db806 SuperGLUE_AX_g_ppl_66caf3 SuperGLUE_BoolQ_ppl_314b96 \
                  SuperGLUE_CB_ppl_0143fe SuperGLUE_COPA_ppl_9f3618 SuperGLUE_MultiRC_ppl_ced824 \
                  SuperGLUE_RTE_ppl_66caf3 SuperGLUE_ReCoRD_gen_30dea0 SuperGLUE_WiC_ppl_312de9 \
                  SuperGLUE_WSC_ppl_003529 race_ppl_a138cd Xsum_gen_31397e gsm8k_gen_1d7fe4 summedits_ppl_1fbeb6 \
                  math_gen_265cce TheoremQA_gen_ef26ca hellaswag_ppl_47bff9 ARC_e_ppl_a450bd ARC_c_ppl_a450bd \
                  commonsenseqa_ppl_5545e2 piqa_ppl_1cf9f0 siqa_ppl_ced5f6 strategyqa_gen_1180a7 \
                  winogrande_ll_c5cf57 obqa_ppl_c7c154 nq_gen_c788f6 triviaqa_gen_2121ce flores_gen_806ede",
    },
    Collection {
        name: "base_medium_llama",
        members: "mmlu_ppl_ac766d ceval_ppl_578f8d agieval_mixed_713d14 GaokaoBench_mixed_9af5ee bbh_gen_5b92b0 \
                  deprecated_humaneval_gen_a82cae deprecated_mbpp_gen_1e1056 CLUE_C3_ppl_e24a31 \
                  CLUE_CMRC_gen_1bd3c8 CLUE_DRCD_gen_1bd3c8 CLUE_afqmc_ppl_6507d7 CLUE_cmnli_ppl_fdc6de \
                  CLUE_ocnli_ppl_fdc6de FewCLUE_bustm_ppl_e53034 FewCLUE_chid_ppl_8f2872 \
                  FewCLUE_cluewsc_ppl_4284a0 FewCLUE_csl_ppl_841b62 FewCLUE_eprstmt_ppl_f1e631 \
                  FewCLUE_ocnli_fc_ppl_c08300 FewCLUE_tnews_ppl_d10e8a lcsts_gen_8ee1fe lambada_gen_217e11 \
                  storycloze_ppl_496661 SuperGLUE_AX_b_ppl_6db806 SuperGLUE_AX_g_ppl_66caf3 \
                  SuperGLUE_BoolQ_ppl_314797 SuperGLUE_CB_ppl_0143fe SuperGLUE_COPA_ppl_9f3618 \
                  SuperGLUE_MultiRC_ppl_ced824 SuperGLUE_RTE_ppl_66caf3 SuperGLUE_ReCoRD_gen_30dea0 \
                  SuperGLUE_WiC_ppl_312de9 SuperGLUE_WSC_ppl_003529 race_ppl_5831a0 Xsum_gen_31397e \
                  gsm8k_gen_1d7fe4 summedits_ppl_1fbeb6 math_gen_265cce TheoremQA_gen_ef26ca hellaswag_ppl_a6e128 \
                  ARC_e_ppl_2ef631 ARC_c_ppl_2ef631 commonsenseqa_ppl_5545e2 piqa_ppl_0cfff2 siqa_ppl_e8d8c5 \
                  strategyqa_gen_1180a7 winogrande_ll_c5cf57 obqa_ppl_6aac9e nq_gen_0356ec triviaqa_gen_0356ec \
                  flores_gen_806ede",
    },
    Collection {
        name: "base_small",
        members: "ceval_ppl_578f8d bbh_gen_5b92b0 CLUE_CMRC_gen_1bd3c8 CLUE_DRCD_gen_1bd3c8 CLUE_afqmc_ppl_6507d7 \
                  FewCLUE_bustm_ppl_e53034 FewCLUE_chid_ppl_8f2872 FewCLUE_cluewsc_ppl_868415 \
                  FewCLUE_eprstmt_ppl_f1e631 humaneval_gen_8e312c deprecated_mbpp_gen_1e1056 lambada_gen_217e11 \
                  storycloze_ppl_496661 SuperGLUE_AX_b_ppl_6db806 SuperGLUE_AX_g_ppl_66caf3 \
                  SuperGLUE_BoolQ_ppl_314b96 SuperGLUE_CB_ppl_0143fe SuperGLUE_COPA_ppl_9f3618 \
                  SuperGLUE_MultiRC_ppl_ced824 SuperGLUE_RTE_ppl_66caf3 SuperGLUE_ReCoRD_gen_30dea0 \
                  SuperGLUE_WiC_ppl_312de9 SuperGLUE_WSC_ppl_d0f531 race_ppl_a138cd math_gen_265cce \
                  gsm8k_gen_1d7fe4 summedits_ppl_1fbeb6 hellaswag_ppl_47bff9 piqa_ppl_1cf9f0 winogrande_ll_c5cf57 \
                  obqa_ppl_c7c154 nq_gen_c788f6 triviaqa_gen_2121ce",
    },
    Collection {
        name: "base_core",
        members: "mmlu_ppl_ac766d cmmlu_ppl_041cbf ceval_ppl_1cd8bf GaokaoBench_no_subjective_gen_d21e37 \
                  triviaqa_wiki_1shot_gen_20a989 nq_open_1shot_gen_20a989 race_ppl_abed12 \
                  winogrande_5shot_ll_252f01 hellaswag_10shot_ppl_59c85e bbh_gen_98fba6 gsm8k_gen_ee684f \
                  math_evaluatorv2_gen_2f4a71 TheoremQA_post_v2_gen_2c2583 deprecated_humaneval_gen_d2537e \
                  deprecated_sanitized_mbpp_gen_cb43ef",
    },
    Collection {
        name: "chat_medium",
        members: "mmlu_gen_4d595a ceval_gen_5f30c7 agieval_gen_f84832 GaokaoBench_gen_5cfe9e bbh_gen_5b92b0 \
                  humaneval_gen_8e312c deprecated_mbpp_gen_1e1056 CLUE_C3_gen_8c358f CLUE_CMRC_gen_1bd3c8 \
                  CLUE_DRCD_gen_1bd3c8 CLUE_afqmc_gen_901306 CLUE_cmnli_gen_1abf97 CLUE_ocnli_gen_c4cb6c \
                  FewCLUE_bustm_gen_634f41 FewCLUE_chid_gen_0a29a2 FewCLUE_cluewsc_gen_c68933 \
                  FewCLUE_csl_gen_28b223 FewCLUE_eprstmt_gen_740ea0 FewCLUE_ocnli_fc_gen_f97a97 \
                  FewCLUE_tnews_gen_b90e4a lcsts_gen_8ee1fe lambada_gen_217e11 storycloze_gen_7f656a \
                  SuperGLUE_AX_b_gen_4dfefa SuperGLUE_AX_g_gen_68aac7 SuperGLUE_BoolQ_gen_883d50 \
                  SuperGLUE_CB_gen_854c6c SuperGLUE_COPA_gen_91ca53 SuperGLUE_MultiRC_gen_27071f \
                  SuperGLUE_RTE_gen_68aac7 SuperGLUE_ReCoRD_gen_30dea0 SuperGLUE_WiC_gen_d06864 \
                  SuperGLUE_WSC_gen_7902a7 race_gen_69ee4f Xsum_gen_31397e gsm8k_gen_1d7fe4 summedits_gen_315438 \
                  math_gen_265cce TheoremQA_gen_7009de hellaswag_gen_6faab5 ARC_e_gen_1e0de5 ARC_c_gen_1e0de5 \
                  commonsenseqa_gen_c946f2 piqa_gen_1194eb siqa_gen_18632c strategyqa_gen_1180a7 \
                  deprecated_winogrande_gen_a9ede5 obqa_gen_9069e4 nq_gen_c788f6 triviaqa_gen_2121ce \
                  flores_gen_806ede",
    },
    Collection {
        name: "chat_small",
        members: "mmlu_gen_4d595a ceval_gen_5f30c7 bbh_gen_5b92b0 CLUE_CMRC_gen_1bd3c8 CLUE_DRCD_gen_1bd3c8 \
                  CLUE_afqmc_gen_901306 FewCLUE_bustm_gen_634f41 FewCLUE_chid_gen_0a29a2 \
                  FewCLUE_cluewsc_gen_c68933 FewCLUE_eprstmt_gen_740ea0 humaneval_gen_8e312c \
                  deprecated_mbpp_gen_1e1056 lambada_gen_217e11 storycloze_gen_7f656a SuperGLUE_AX_b_gen_4dfefa \
                  SuperGLUE_AX_g_gen_68aac7 SuperGLUE_BoolQ_gen_883d50 SuperGLUE_CB_gen_854c6c \
                  SuperGLUE_COPA_gen_91ca53 SuperGLUE_MultiRC_gen_27071f SuperGLUE_RTE_gen_68aac7 \
                  SuperGLUE_ReCoRD_gen_30dea0 SuperGLUE_WiC_gen_d06864 SuperGLUE_WSC_gen_fe4bf3 race_gen_69ee4f \
                  math_gen_265cce gsm8k_gen_1d7fe4 summedits_gen_315438 hellaswag_gen_6faab5 piqa_gen_1194eb \
                  deprecated_winogrande_gen_a9ede5 obqa_gen_9069e4 nq_gen_c788f6 triviaqa_gen_2121ce",
    },
    Collection {
        name: "chat_core",
        members: "mmlu_gen_4d595a cmmlu_gen_c13365 ceval_internal_gen_2daf24 GaokaoBench_no_subjective_gen_4c31db \
                  triviaqa_wiki_1shot_gen_bc5f21 nq_open_1shot_gen_2e45e5 race_gen_69ee4f \
                  winogrande_5shot_gen_6447e6 hellaswag_10shot_gen_e42710 bbh_gen_5b92b0 gsm8k_gen_1d7fe4 \
                  math_evaluatorv2_gen_cecb31 TheoremQA_post_v2_gen_ef26ca humaneval_gen_8e312c \
                  deprecated_sanitized_mbpp_gen_1e1056",
    },
    Collection {
        name: "qwen",
        members: "ceval_ppl_578f8d agieval_mixed_713d14 mmlu_ppl_ac766d cmmlu_ppl_8b9c76 GaokaoBench_mixed_9af5ee \
                  ARC_c_gen_1e0de5 ARC_e_gen_1e0de5 SuperGLUE_WiC_ppl_312de9 FewCLUE_chid_ppl_8f2872 \
                  CLUE_afqmc_ppl_6507d7 SuperGLUE_WSC_ppl_003529 tydiqa_gen_978d2a flores_gen_806ede \
                  SuperGLUE_BoolQ_ppl_314797 commonsenseqa_ppl_5545e2 triviaqa_gen_0356ec nq_gen_0356ec \
                  CLUE_C3_gen_8c358f race_ppl_5831a0 obqa_gen_9069e4 FewCLUE_csl_ppl_841b62 lcsts_gen_8ee1fe \
                  Xsum_gen_31397e FewCLUE_eprstmt_gen_740ea0 lambada_gen_217e11 CLUE_cmnli_ppl_fdc6de \
                  CLUE_ocnli_gen_c4cb6c SuperGLUE_AX_b_gen_4dfefa SuperGLUE_AX_g_gen_68aac7 \
                  SuperGLUE_RTE_gen_68aac7 SuperGLUE_COPA_gen_91ca53 SuperGLUE_ReCoRD_gen_a69961 \
                  hellaswag_gen_6faab5 piqa_gen_1194eb siqa_ppl_e8d8c5 math_gen_265cce gsm8k_gen_1d7fe4 \
                  deprecated_drop_gen_8a9ed9 deprecated_humaneval_gen_a82cae deprecated_mbpp_gen_1e1056 \
                  bbh_gen_5bf00b",
    },
    Collection {
        name: "qwen_chat",
        members: "ceval_gen_5f30c7 agieval_mixed_713d14 mmlu_gen_4d595a cmmlu_gen_c13365 GaokaoBench_gen_5cfe9e \
                  ARC_c_ppl_2ef631 ARC_e_ppl_2ef631 SuperGLUE_WiC_gen_d06864 FewCLUE_chid_ppl_8f2872 \
                  CLUE_afqmc_gen_901306 SuperGLUE_WSC_ppl_003529 tydiqa_gen_978d2a flores_gen_806ede \
                  SuperGLUE_BoolQ_ppl_314797 commonsenseqa_gen_c946f2 triviaqa_gen_2121ce nq_gen_c788f6 \
                  CLUE_C3_gen_8c358f race_gen_69ee4f obqa_ppl_6aac9e FewCLUE_csl_ppl_841b62 lcsts_gen_8ee1fe \
                  Xsum_gen_31397e FewCLUE_eprstmt_ppl_f1e631 lambada_gen_217e11 CLUE_cmnli_ppl_fdc6de \
                  CLUE_ocnli_ppl_fdc6de SuperGLUE_AX_b_ppl_6db806 SuperGLUE_AX_g_ppl_66caf3 \
                  SuperGLUE_RTE_ppl_66caf3 SuperGLUE_COPA_gen_91ca53 SuperGLUE_ReCoRD_gen_30dea0 \
                  hellaswag_ppl_a6e128 piqa_ppl_0cfff2 siqa_ppl_e8d8c5 math_gen_265cce gsm8k_gen_1d7fe4 \
                  deprecated_drop_gen_8a9ed9 deprecated_humaneval_gen_a82cae deprecated_mbpp_gen_1e1056 \
                  bbh_gen_5b92b0",
    },
    Collection { name: "example", members: "piqa_gen_1194eb nq_gen_c788f6" },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted in OpenCompass's files.
    #[test]
    fn collections_have_their_members() {
        let count = |name: &str| find(name).map(|collection| collection.members().count());
        let found = ["base_medium", "base_small", "chat_core", "example"].map(count);
        assert_eq!(found, [Some(51), Some(33), Some(15), Some(2)]);
        let names = |collection: &Collection| collection.members().all(|name| !name.contains(['.', '\\', ',']));
        assert!(COLLECTIONS.iter().all(names));
    }
}
