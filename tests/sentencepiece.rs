//! SentencePiece models against the reference library: tiny ones trained for this test, and InternLM's.

use oc_engine::Tokenizer;
use oc_tests::{
    fixture,
    sentencepiece::{check, check_ceval},
    shared,
};

#[test]
fn tiny_models_segment_as_the_reference_library() {
    for name in ["llama", "symbols", "folded", "prefixed", "collapsed", "unescaped", "steps"] {
        let file = fixture("sentencepiece").join(format!("{name}.model"));
        check(name, &Tokenizer::open(&file).unwrap());
    }
}

#[test]
fn special_tokens_spelt_out_become_their_ids() {
    let tokenizer = Tokenizer::open(&fixture("sentencepiece").join("llama.model")).unwrap();
    let ids = tokenizer.encode("<s>water</s>", true).unwrap();
    let water = tokenizer.encode("water", false).unwrap();
    assert_eq!(ids, [&[1, 1], &water[..], &[2]].concat());
    assert!(tokenizer.is_special(1) && tokenizer.is_special(2) && !tokenizer.is_special(water[0]));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "water");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s><s> water</s>");
}

#[test]
fn internlm_segments_all_of_ceval_as_the_reference_library() {
    let (Some(file), Some(ceval)) = (shared("data/internlm/tokenizer.model"), shared("data/ceval/formal_ceval")) else {
        return;
    };
    let tokenizer = Tokenizer::open(&file).unwrap();
    check("internlm", &tokenizer);
    check_ceval(&tokenizer, &ceval);
}
