//! Small GGUF files.

/// Writes a GGUF file.
struct GgufWriter {
    entries: u64,
    bytes: Vec<u8>,
}

impl GgufWriter {
    fn string(&mut self, text: &str) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn key(&mut self, key: &str, kind: u32) {
        self.entries += 1;
        self.string(key);
        self.bytes.extend(kind.to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        self.string(value);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.bytes.extend(value.to_le_bytes());
    }

    fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }
}

/// What a file says of its tokenizer.
pub enum Vocabulary {
    /// Byte-level, of a few tokens.
    Bytes,
    /// With bytes for what is unknown.
    SentencePiece {
        /// Text, score and kind of each.
        pieces: Vec<(String, f32, i32)>,
        /// Whether a space is put in front of a text.
        adds_space: bool,
    },
}

/// A few tokens: three special ones, letters, a space, pairs.
const TOKENS: [(&str, i32); 8] =
    [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("a", 1), ("b", 1), ("ab", 1), ("\u{2581}", 1), ("\u{2581}a", 1)];

impl Vocabulary {
    /// SentencePiece, of a few pieces and bytes.
    pub fn small() -> Self {
        let tokens = TOKENS.map(|(text, kind)| (text.to_owned(), kind));
        let all = tokens.into_iter().chain((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6)));
        let pieces = all.enumerate().map(|(id, (text, kind))| (text, -(id as f32), kind)).collect();
        Self::SentencePiece { pieces, adds_space: true }
    }
}

/// The file of a tiny model (`llama`, or what has the same tensors) with this tokenizer, with all tensors that it needs or only
/// some.
pub fn gguf(architecture: &str, vocabulary: &Vocabulary, is_complete: bool) -> Vec<u8> {
    let mut out = GgufWriter { entries: 0, bytes: Vec::new() };
    out.text("general.architecture", architecture);
    for (key, value) in [
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("block_count", 1),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("context_length", 16),
    ] {
        out.number(&format!("{architecture}.{key}"), value);
    }
    out.key(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 6);
    out.bytes.extend(1e-5_f32.to_le_bytes());
    let tokens: Vec<(&str, i32)> = match vocabulary {
        Vocabulary::Bytes => {
            out.text("tokenizer.ggml.pre", "gpt-2");
            out.array("tokenizer.ggml.merges", 8, 1);
            out.string("a b");
            TOKENS.to_vec()
        }
        Vocabulary::SentencePiece { pieces, adds_space } => {
            out.array("tokenizer.ggml.scores", 6, pieces.len());
            pieces.iter().for_each(|(_, score, _)| out.bytes.extend(score.to_le_bytes()));
            out.key("tokenizer.ggml.add_space_prefix", 7);
            out.bytes.push(u8::from(*adds_space));
            pieces.iter().map(|(text, _, kind)| (text.as_str(), *kind)).collect()
        }
    };
    let is_sentencepiece = matches!(vocabulary, Vocabulary::SentencePiece { .. });
    out.text("tokenizer.ggml.model", if is_sentencepiece { "llama" } else { "gpt2" });
    out.array("tokenizer.ggml.token_type", 5, tokens.len());
    tokens.iter().for_each(|(_, kind)| out.bytes.extend(kind.to_le_bytes()));
    out.array("tokenizer.ggml.tokens", 8, tokens.len());
    tokens.iter().for_each(|(text, _)| out.string(text));
    out.number("tokenizer.ggml.bos_token_id", 1);
    out.number("tokenizer.ggml.eos_token_id", 2);
    // ggml's numbers of F32 and Q8_0: (name, rows, type), all 32 wide.
    let rows = if is_complete { tokens.len() as u64 } else { 8 };
    let some = [("token_embd.weight", rows, 8), ("blk.0.attn_q.weight", 32, 8), ("output_norm.weight", 1, 0)];
    let others = [
        ("blk.0.attn_k.weight", 16, 8),
        ("blk.0.attn_v.weight", 16, 8),
        ("blk.0.attn_output.weight", 32, 8),
        ("blk.0.attn_norm.weight", 1, 0),
        ("blk.0.ffn_norm.weight", 1, 0),
        ("blk.0.ffn_gate.weight", 32, 8),
        ("blk.0.ffn_up.weight", 32, 8),
        ("blk.0.ffn_down.weight", 32, 8),
    ];
    let tensors: Vec<(&str, u64, u32)> = some.into_iter().chain(others.into_iter().filter(|_| is_complete)).collect();
    let mut table = GgufWriter { entries: 0, bytes: Vec::new() };
    let mut at = 0_u64;
    for (name, rows, kind) in &tensors {
        let dims: &[u64] = if *kind == 0 { &[32] } else { &[32, *rows] };
        let bytes = if *kind == 0 { 128 } else { rows * 34 };
        table.string(name);
        table.bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| table.bytes.extend(dim.to_le_bytes()));
        table.bytes.extend(kind.to_le_bytes());
        table.bytes.extend(at.to_le_bytes());
        at = (at + bytes).next_multiple_of(32);
    }
    let mut file = b"GGUF\x03\x00\x00\x00".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(out.entries.to_le_bytes());
    file.extend(out.bytes);
    file.extend(table.bytes);
    file.resize(file.len().next_multiple_of(32) + at as usize, 1);
    file
}
