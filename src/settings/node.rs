//! From a TOML value to a type, with errors that name the key.
//!
//! `toml` forgets the key of a wrong value inside a tagged table (a network, a task), which is where nearly all settings are.
//! [`Node`] is a deserializer over the same values whose errors collect the path on the way out: `` `net.neuron.tau_a` must be
//! above 0 and finite, got -5``.

use std::fmt::Display;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use toml::Value;

use super::nearest;

/// A setting that cannot be used: which, the rule it breaks, what was got, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(String);

impl SettingError {
    /// An error in words; they follow the path of the setting, "`net.dt` ...".
    pub fn new(text: impl Into<String>) -> SettingError {
        SettingError(text.into())
    }

    /// The same error of a setting inside `key`.
    pub fn within(self, key: &str) -> SettingError {
        SettingError(match self.0.strip_prefix('`') {
            Some(rest) => format!("`{key}.{rest}"),
            None => format!("`{key}` {}", self.0),
        })
    }
}

/// What serde expects, in the words of a person who writes a configuration.
fn expected(what: &dyn Expected) -> String {
    match what.to_string().as_str() {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number from 0".into(),
        "i64" | "i32" => "a whole number".into(),
        "f64" | "f32" => "a number".into(),
        "a boolean" => "true or false".into(),
        other => other.trim_start_matches("struct ").to_string(),
    }
}

fn got(what: Unexpected<'_>) -> String {
    match what {
        Unexpected::Str(s) => format!("`{s}`"),
        Unexpected::Unsigned(n) => n.to_string(),
        Unexpected::Signed(n) => n.to_string(),
        Unexpected::Float(x) => x.to_string(),
        Unexpected::Bool(b) => b.to_string(),
        Unexpected::Map => "a table".into(),
        Unexpected::Seq => "a list".into(),
        other => other.to_string(),
    }
}

impl de::Error for SettingError {
    fn custom<T: Display>(text: T) -> SettingError {
        SettingError(text.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, what: &dyn Expected) -> SettingError {
        SettingError(format!("must be {}, got {}", expected(what), got(unexpected)))
    }

    fn invalid_value(unexpected: Unexpected<'_>, what: &dyn Expected) -> SettingError {
        SettingError::invalid_type(unexpected, what)
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> SettingError {
        SettingError(format!("has no setting `{field}`; {}", choices(field, known)))
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> SettingError {
        SettingError(format!("knows no `{variant}`; {}", choices(variant, known)))
    }

    fn missing_field(field: &'static str) -> SettingError {
        SettingError(format!("needs the setting `{field}`, which is missing; add it"))
    }
}

/// "the nearest is `n_rec`; known are n_in, n_rec": how an error about an unknown name ends. What has no names, such as a rule
/// without parameters, says so.
pub fn choices(word: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return "there are none here".into();
    }
    let near = nearest(word, known.iter().copied()).map(|n| format!("the nearest is `{n}`; ")).unwrap_or_default();
    format!("{near}known are {}", known.join(", "))
}

/// A TOML value to read from.
pub struct Node(pub Value);

/// Reads a type from a value.
///
/// # Errors
/// When the value has an unknown key, lacks one, or one is of the wrong type or outside its range.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, SettingError> {
    T::deserialize(Node(value))
}

impl IntoDeserializer<'_, SettingError> for Node {
    type Deserializer = Node;

    fn into_deserializer(self) -> Node {
        self
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = SettingError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingError> {
        match self.0 {
            Value::String(s) => visitor.visit_string(s),
            Value::Integer(n) => visitor.visit_i64(n),
            Value::Float(x) => visitor.visit_f64(x),
            Value::Boolean(b) => visitor.visit_bool(b),
            Value::Datetime(t) => visitor.visit_string(t.to_string()),
            Value::Array(list) => visitor.visit_seq(List { rest: list.into_iter(), at: 0 }),
            Value::Table(table) => visitor.visit_map(Entries { rest: table.into_iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, SettingError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SettingError> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(name.into_deserializer()),
            Value::Table(table) if table.len() == 1 => {
                let mut entries = table.into_iter();
                let (name, value) = entries.next().unwrap_or_else(|| (String::new(), Value::Boolean(false)));
                visitor.visit_enum(Variant { name, value })
            }
            _ => Err(SettingError(format!("must be one of {}", names.join(", ")))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Entries {
    rest: toml::map::IntoIter<String, Value>,
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = SettingError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, SettingError> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((key.clone(), value));
        seed.deserialize(Node(Value::String(key))).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, SettingError> {
        let Some((key, value)) = self.value.take() else {
            return Err(SettingError("has a value without a key".into()));
        };
        seed.deserialize(Node(value)).map_err(|e| e.within(&key))
    }
}

struct List {
    rest: std::vec::IntoIter<Value>,
    at: usize,
}

impl<'de> SeqAccess<'de> for List {
    type Error = SettingError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, SettingError> {
        let Some(value) = self.rest.next() else { return Ok(None) };
        self.at += 1;
        seed.deserialize(Node(value)).map(Some).map_err(|e| e.within(&(self.at - 1).to_string()))
    }
}

/// A variant with contents, `{ uniform = [100.0, 3000.0] }`.
struct Variant {
    name: String,
    value: Value,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = SettingError;
    type Variant = Node;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Node), SettingError> {
        Ok((seed.deserialize(Node(Value::String(self.name)))?, Node(self.value)))
    }
}

impl<'de> VariantAccess<'de> for Node {
    type Error = SettingError;

    fn unit_variant(self) -> Result<(), SettingError> {
        Err(SettingError("is a name without contents; write the name alone".into()))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, SettingError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, SettingError> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, SettingError> {
        self.deserialize_any(visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Shape {
        Flat,
        Round(f64),
        Range(f64, f64),
        Box { side: u32 },
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        size: usize,
        #[serde(default)]
        shapes: Vec<Shape>,
        limit: Option<f64>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer {
        inner: Inner,
    }

    fn outer(text: &str) -> Result<Outer, String> {
        read(Value::Table(text.parse().expect("TOML"))).map_err(|e: SettingError| e.to_string())
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let got = outer(
            "[inner]\nsize = 3\nlimit = 2\nshapes = ['flat', {round = 1}, {range = [0, 2.5]}, {box = {side = 4}}]",
        );
        let shapes = vec![Shape::Flat, Shape::Round(1.0), Shape::Range(0.0, 2.5), Shape::Box { side: 4 }];
        assert_eq!(got, Ok(Outer { inner: Inner { size: 3, shapes, limit: Some(2.0) } }));
    }

    #[test]
    fn errors_name_the_path_the_rule_and_the_way_out() {
        for (text, want) in [
            ("[inner]\nsize = 'a'", "`inner.size` must be a whole number from 0, got `a`"),
            ("[inner]\nsize = -1", "`inner.size` must be a whole number from 0, got -1"),
            (
                "[inner]\nsise = 1",
                "`inner` has no setting `sise`; the nearest is `size`; known are size, shapes, limit",
            ),
            ("[inner]", "`inner` needs the setting `size`, which is missing; add it"),
            (
                "[inner]\nsize = 1\nshapes = ['flat', 'rund']",
                "`inner.shapes.1` knows no `rund`; the nearest is `round`; known are flat, round, range, box",
            ),
            ("[inner]\nsize = 1\nshapes = [3]", "`inner.shapes.0` must be one of flat, round, range, box"),
        ] {
            assert_eq!(outer(text), Err(want.to_string()));
        }
    }
}
