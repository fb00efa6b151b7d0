//! Words of OpenCompass's configurations.

use serde_json::{Map, Value, json};

/// The class of templates.
pub(super) const PROMPT_TEMPLATE: &str = "PromptTemplate";
/// Where the examples go.
pub(super) const ICE_TOKEN: &str = "</E>";
/// The answers of most datasets.
pub(super) const OPTIONS: [&str; 4] = ["A", "B", "C", "D"];

/// The full name of a dataset class.
pub(super) fn dataset_type(class: &str) -> String {
    format!("opencompass.datasets.{class}")
}

/// The full name of an inferencer.
pub(super) fn inferencer_type(class: &str) -> String {
    format!("opencompass.openicl.icl_inferencer.{class}")
}

/// The full name of an evaluator.
pub(super) fn evaluator_type(class: &str) -> String {
    format!("opencompass.openicl.icl_evaluator.{class}")
}

/// The full name of a post-processor.
pub(super) fn postprocessor_type(function: &str) -> String {
    format!("opencompass.utils.text_postprocessors.{function}")
}

/// `dict(type=PromptTemplate, …)`.
pub(super) fn template(template: Value, ice_token: Option<&str>) -> Value {
    let mut config = json!({ "type": "opencompass.openicl.icl_prompt_template.PromptTemplate", "template": template });
    if let Some(token) = ice_token {
        config["ice_token"] = token.into();
    }
    config
}

/// One body for each of `answers`.
pub(super) fn each(answers: &[&str], body: &dyn Fn(&str) -> Value) -> Value {
    Value::Object(answers.iter().map(|answer| ((*answer).to_owned(), body(answer))).collect::<Map<_, _>>())
}

/// The first five rows of the training split as examples.
pub(super) fn first_five() -> Value {
    json!({ "type": "opencompass.openicl.icl_retriever.FixKRetriever", "fix_id_list": [0, 1, 2, 3, 4] })
}

/// No examples.
pub(super) fn no_examples() -> Value {
    json!({ "type": "opencompass.openicl.icl_retriever.ZeroRetriever" })
}
