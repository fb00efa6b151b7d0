//! The parts of a `ModelProto` that segmentation needs (`sentencepiece_model.proto` of the reference library).

use prost::Message;

/// `TrainerSpec.ModelType.BPE`
pub(super) const BPE: i32 = 2;

/// `ModelProto.SentencePiece.Type`, whose numbers begin at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// One piece; its id is its place.
#[derive(Debug)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: PieceKind,
}

/// What a model says.
pub(super) struct Model {
    pub pieces: Vec<Piece>,
    pub kind: i32,
    pub byte_fallback: bool,
    /// Empty: text is not changed but for its spaces.
    pub charsmap: Vec<u8>,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
}

#[derive(Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<SentencePieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Message)]
struct SentencePieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

#[derive(Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// Parses a model. Absent fields have the defaults of the specification.
pub(super) fn parse(bytes: &[u8]) -> Result<Model, String> {
    let proto = ModelProto::decode(bytes).map_err(|e| format!("not a SentencePiece model: {e}"))?;
    if proto.pieces.is_empty() {
        return Err("not a SentencePiece model: it has no pieces".into());
    }
    let trainer = proto.trainer_spec.unwrap_or_default();
    let normalizer = proto.normalizer_spec.unwrap_or_default();
    if trainer.treat_whitespace_as_suffix == Some(true) {
        return Err("it treats spaces as suffixes, which this engine does not".into());
    }
    let piece = |(id, proto): (usize, SentencePieceProto)| {
        piece(id, proto.piece.unwrap_or_default(), proto.score.unwrap_or(0.0), proto.kind.unwrap_or(1))
    };
    Ok(Model {
        pieces: proto.pieces.into_iter().enumerate().map(piece).collect::<Result<_, _>>()?,
        kind: trainer.model_type.unwrap_or(1),
        byte_fallback: trainer.byte_fallback.unwrap_or(false),
        charsmap: normalizer.precompiled_charsmap.unwrap_or_default(),
        add_dummy_prefix: normalizer.add_dummy_prefix.unwrap_or(true),
        remove_extra_whitespaces: normalizer.remove_extra_whitespaces.unwrap_or(true),
        escape_whitespaces: normalizer.escape_whitespaces.unwrap_or(true),
    })
}

/// The bytes of a BPE model without rules for characters. `spaces`: `add_dummy_prefix`, `remove_extra_whitespaces`,
/// `escape_whitespaces`.
pub(super) fn encode(pieces: &[Piece], byte_fallback: bool, spaces: [bool; 3]) -> Vec<u8> {
    let piece = |piece: &Piece| SentencePieceProto {
        piece: Some(piece.text.clone()),
        score: Some(piece.score),
        kind: Some(piece.kind as i32 + 1),
    };
    let [add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces] = spaces.map(Some);
    let proto = ModelProto {
        pieces: pieces.iter().map(piece).collect(),
        trainer_spec: Some(TrainerSpec {
            model_type: Some(BPE),
            treat_whitespace_as_suffix: None,
            byte_fallback: Some(byte_fallback),
        }),
        normalizer_spec: Some(NormalizerSpec {
            precompiled_charsmap: None,
            add_dummy_prefix,
            remove_extra_whitespaces,
            escape_whitespaces,
        }),
    };
    proto.encode_to_vec()
}

/// A checked piece of the `kind` of the specification.
pub(super) fn piece(id: usize, text: String, score: f32, kind: i32) -> Result<Piece, String> {
    let kind = match kind {
        1 => PieceKind::Normal,
        2 => PieceKind::Unknown,
        3 => PieceKind::Control,
        4 => PieceKind::UserDefined,
        5 => PieceKind::Unused,
        6 => PieceKind::Byte,
        other => return Err(format!("piece {id} is of the unknown kind {other}")),
    };
    if score.is_nan() {
        return Err(format!("the score of piece {id} is not a number"));
    }
    Ok(Piece { text, score, kind })
}
