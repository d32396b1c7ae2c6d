//! The values of a declaration that have a form of their own: paths, scalars and flags.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde_json::Value;

/// The path to a value of an event: keys separated by dots, as `part.tokens.input`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JsonPath(Vec<String>);

/// The most keys of a path.
const MOST_KEYS: usize = 32;

impl JsonPath {
    /// The keys, the outermost first.
    pub fn keys(&self) -> &[String] {
        &self.0
    }

    /// The value at this path.
    pub fn get<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(value, |value, key| value.get(key))
    }
}

impl<'de> Deserialize<'de> for JsonPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonPath, D::Error> {
        let text = String::deserialize(deserializer)?;
        let keys: Vec<String> = text.split('.').map(str::to_owned).collect();
        if keys.iter().any(|key| key.is_empty() || key.contains(char::is_whitespace)) {
            return Err(de::Error::custom(format!(
                "`{text}` is not a path: write the keys of the event with a dot between them, as \
                 `part.tokens.input`"
            )));
        }
        if keys.len() > MOST_KEYS {
            return Err(de::Error::custom(format!("a path has at most {MOST_KEYS} keys")));
        }
        Ok(JsonPath(keys))
    }
}

/// A value with which a value of an event is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

impl Scalar {
    /// Whether `value` is this value.
    pub fn is(&self, value: &Value) -> bool {
        match self {
            Scalar::Text(text) => value.as_str() == Some(text),
            Scalar::Integer(number) => value.as_i64() == Some(*number),
            Scalar::Boolean(truth) => value.as_bool() == Some(*truth),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct ScalarVisitor;
        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, an integer, true or false")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(number))
            }

            fn visit_bool<E: de::Error>(self, truth: bool) -> Result<Scalar, E> {
                Ok(Scalar::Boolean(truth))
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// A flag that is set by `true`, and by nothing else: to unset it, the key is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnlyTrue;

impl<'de> Deserialize<'de> for OnlyTrue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OnlyTrue, D::Error> {
        match bool::deserialize(deserializer)? {
            true => Ok(OnlyTrue),
            false => Err(de::Error::custom("leave the key out instead of `false`")),
        }
    }
}
