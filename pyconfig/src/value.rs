//! What an evaluated file holds.

use crate::Place;

/// A value of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True`, `False`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Str(String),
    /// A list, or something else that Python iterates over in order.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A set, in the order of insertion.
    Set(Vec<Value>),
    /// A dictionary.
    Dict(Dict),
    /// Something imported from outside the configuration: a class or a function, only its name.
    Name(Name),
    /// A function that the file defines.
    Function(Place),
}

/// A dictionary, in the order of insertion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dict {
    /// Keys and values.
    pub entries: Vec<(Value, Value)>,
    /// Where it was made.
    pub place: Place,
}

/// The name of something imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// With its module, e.g. `opencompass.models.HuggingFaceBaseModel`.
    pub dotted: String,
    /// Where it was imported.
    pub place: Place,
}

impl Dict {
    /// The value of a text key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| matches!(k, Value::Str(k) if k == key)).map(|(_, value)| value)
    }
}

impl Value {
    /// What it is, for messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an int",
            Self::Float(_) => "a float",
            Self::Str(_) => "a str",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Set(_) => "a set",
            Self::Dict(_) => "a dict",
            Self::Name(_) => "a name",
            Self::Function(_) => "a function",
        }
    }
}
