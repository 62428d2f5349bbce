//! The author's own settings as a type of theirs.
//!
//! A deserializer of our own over the merged tree, because serde's for JSON says neither which key is at
//! fault, without which nobody can be blamed, nor keeps quiet about the value, which may be a secret.
//! And because what comes from a variable or a flag is text: only the type that reads it can say whether
//! `0815` is a number or a word.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use crate::flags::scalar;
use crate::layers::{Layers, Source, join};
use crate::people;

/// What is wrong, in words that show the value and in words that do not.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) path: Option<String>,
    pub(crate) shown: String,
    pub(crate) hidden: String,
    /// The key that is not there.
    pub(crate) missing: Option<&'static str>,
}

impl Fault {
    fn new(shown: String, hidden: String) -> Self {
        Self { path: None, shown, hidden, missing: None }
    }

    /// The innermost place counts.
    fn at(mut self, path: &str) -> Self {
        self.path.get_or_insert_with(|| path.to_owned());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hidden)
    }
}

impl std::error::Error for Fault {}

fn kind(unexpected: &Unexpected<'_>) -> &'static str {
    match unexpected {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Char(_) | Unexpected::Str(_) => "text",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        _ => "something else",
    }
}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string(), "its value is not accepted".into())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let kind = kind(&unexpected);
        let expected = expected.to_string();
        let expected = people::expected(&expected);
        let shown = match unexpected {
            Unexpected::Str(text) => format!("expected {expected}, got {text:?}"),
            Unexpected::Bool(_)
            | Unexpected::Unsigned(_)
            | Unexpected::Signed(_)
            | Unexpected::Float(_)
            | Unexpected::Char(_) => {
                format!("expected {expected}, got {}", people::got(&unexpected.to_string()))
            }
            _ => format!("expected {expected}, got {kind}"),
        };
        Self::new(shown, format!("expected {expected}, got {kind}"))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hidden = format!("expected {}", one_of(expected));
        Self::new(format!("{hidden}, got {variant:?}"), hidden)
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        let text = format!("there is no such setting: expected {}", one_of(expected));
        Self::new(text.clone(), text)
    }

    fn missing_field(field: &'static str) -> Self {
        let mut fault = Self::new(format!("`{field}` is missing"), format!("`{field}` is missing"));
        fault.missing = Some(field);
        fault
    }
}

fn one_of(words: &[&str]) -> String {
    match words {
        [] => "none".into(),
        [word] => format!("`{word}`"),
        words => format!("one of `{}`", words.join("`, `")),
    }
}

/// A value and where it stands.
pub(crate) struct Typed<'a> {
    layers: &'a Layers,
    value: &'a Value,
    path: String,
}

impl<'a> Typed<'a> {
    pub(crate) fn new(layers: &'a Layers, value: &'a Value, path: &str) -> Self {
        Self { layers, value, path: path.into() }
    }

    /// The text, if it came as text whatever it means.
    fn words(&self) -> Option<&'a str> {
        let text = self.value.as_str()?;
        match self.layers.source(&self.path) {
            // JSON, and so of a type already.
            Source::Environment(name) if name == "FORMIC_CONFIG" || name == "FORMIC_CLIENT" => None,
            Source::Environment(_) | Source::Flag(_) => Some(text),
            _ => None,
        }
    }

    fn visit<'de, V: Visitor<'de>>(self, value: &Value, visitor: V) -> Result<V::Value, Fault> {
        let visited = match value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(yes) => visitor.visit_bool(*yes),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), _, _) => visitor.visit_u64(number),
                (_, Some(number), _) => visitor.visit_i64(number),
                (_, _, Some(number)) => visitor.visit_f64(number),
                _ => Err(Fault::custom("the number is out of range")),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => {
                visitor.visit_seq(Items { layers: self.layers, items: items.iter(), at: 0, path: &self.path })
            }
            Value::Object(entries) => {
                let entries = entries.iter();
                visitor.visit_map(Entries { layers: self.layers, entries, value: None, path: &self.path })
            }
        };
        visited.map_err(|fault| fault.at(&self.path))
    }

    fn visit_words<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let value = self.value;
        self.visit(value, visitor)
    }
}

impl<'de> Deserializer<'de> for Typed<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let parsed = self.words().map(scalar);
        let value = self.value;
        self.visit(parsed.as_ref().unwrap_or(value), visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit_words(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit_words(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit_words(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.value.is_null() || self.words() == Some("null") {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let path = self.path.clone();
        let visited = match self.value {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Object(entries) if entries.len() == 1 => match entries.iter().next() {
                Some((variant, value)) => {
                    let path = join(&self.path, variant);
                    visitor.visit_enum(Variant { variant, value: Typed { layers: self.layers, value, path } })
                }
                None => Err(Fault::custom("the table is empty")),
            },
            _ => return self.deserialize_any(visitor),
        };
        visited.map_err(|fault: Fault| fault.at(&path))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

struct Items<'a> {
    layers: &'a Layers,
    items: std::slice::Iter<'a, Value>,
    at: usize,
    path: &'a str,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(value) = self.items.next() else { return Ok(None) };
        let path = format!("{}.{}", self.path, self.at);
        self.at += 1;
        seed.deserialize(Typed { layers: self.layers, value, path }).map(Some)
    }
}

struct Entries<'a> {
    layers: &'a Layers,
    entries: serde_json::map::Iter<'a>,
    value: Option<(&'a str, &'a Value)>,
    path: &'a str,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((name, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some((name, value));
        let key: StrDeserializer<'_, Fault> = name.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|fault| fault.at(&join(self.path, name)))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((name, value)) = self.value.take() else {
            return Err(Fault::custom("a value was asked for before its key"));
        };
        seed.deserialize(Typed { layers: self.layers, value, path: join(self.path, name) })
    }
}

struct Variant<'a> {
    variant: &'a str,
    value: Typed<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Typed<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Typed<'a>), Fault> {
        let key: StrDeserializer<'_, Fault> = self.variant.into_deserializer();
        Ok((seed.deserialize(key)?, self.value))
    }
}

impl<'de> VariantAccess<'de> for Typed<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }
}
