//! What an evaluated file holds.

use crate::Place;
use serde_json::{Map, Number, Value as Json};

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

    /// As JSON: tuples and sets become lists, names their dotted text, keys text as Python's `json` writes them.
    ///
    /// # Errors
    /// The place of a function, which JSON cannot hold; infinite numbers are `None` there.
    pub fn to_json(&self) -> Result<Json, Place> {
        Ok(match self {
            Self::None => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(n) => Json::from(*n),
            Self::Float(x) => Number::from_f64(*x).map_or(Json::Null, Json::Number),
            Self::Str(text) => Json::from(text.as_str()),
            Self::List(items) | Self::Tuple(items) | Self::Set(items) => {
                Json::Array(items.iter().map(Self::to_json).collect::<Result<_, _>>()?)
            }
            Self::Dict(dict) => {
                let mut map = Map::new();
                for (key, value) in &dict.entries {
                    map.insert(key.json_key(), value.to_json()?);
                }
                Json::Object(map)
            }
            Self::Name(name) => Json::from(name.dotted.as_str()),
            Self::Function(place) => return Err(place.clone()),
        })
    }

    fn json_key(&self) -> String {
        match self {
            Self::Str(text) => text.clone(),
            Self::Int(n) => n.to_string(),
            Self::Float(x) => format!("{x:?}"),
            Self::Bool(b) => b.to_string(),
            Self::None => "null".into(),
            Self::Name(name) => name.dotted.clone(),
            other => format!("{other:?}"),
        }
    }

    /// From JSON, e.g. for [`Module::Values`](crate::Module::Values).
    pub fn from_json(json: &Json, place: &Place) -> Self {
        match json {
            Json::Null => Self::None,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => n.as_i64().map_or_else(|| Self::Float(n.as_f64().unwrap_or(f64::NAN)), Self::Int),
            Json::String(text) => Self::Str(text.clone()),
            Json::Array(items) => Self::List(items.iter().map(|item| Self::from_json(item, place)).collect()),
            Json::Object(map) => {
                let entry = |(key, value): (&String, &Json)| (Self::Str(key.clone()), Self::from_json(value, place));
                Self::Dict(Dict { entries: map.iter().map(entry).collect(), place: place.clone() })
            }
        }
    }
}
