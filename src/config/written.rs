//! Where something stands in the file, and how it is written there.
//!
//! Both are found by reading the text once more with the parser itself: flow style, comments, quotes and aliases are all its
//! business.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The line on which the key at `path` stands: the parser is made to fail on purpose at that key, and says where it is.
pub(super) fn line(text: &str, path: &[String]) -> Option<usize> {
    if path.is_empty() {
        return None;
    }
    let seek = Seek { path };
    match seek.deserialize(serde_yaml::Deserializer::from_str(text)) {
        Err(error) => error.location().map(|location| location.line()),
        Ok(()) => None,
    }
}

struct Seek<'a> {
    path: &'a [String],
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(found) = map.next_key_seed(SeekKey { path: self.path })? {
            if found {
                map.next_value_seed(Seek { path: &self.path[1..] })?
            } else {
                map.next_value::<IgnoredAny>().map(drop)?
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// Reads one key; fails on purpose when it is the last of the path, and tells whether it leads towards it.
struct SeekKey<'a> {
    path: &'a [String],
}

impl<'de> DeserializeSeed<'de> for SeekKey<'_> {
    type Value = bool;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for SeekKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        match self.path {
            [last] if last == key => Err(E::custom("here")),
            [first, ..] => Ok(first == key),
            [] => Ok(false),
        }
    }
}

/// How the value at `path` (or the one at this place of its list) is written, whatever YAML takes it for.
pub(super) fn find(text: &str, path: &[String], place: Option<usize>) -> Option<String> {
    Find { path, place }.deserialize(serde_yaml::Deserializer::from_str(text)).ok()?
}

#[derive(Clone, Copy)]
struct Find<'a> {
    path: &'a [String],
    place: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = Option<String>;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match (self.path, self.place) {
            // Asked for a text, the parser hands over what is written.
            ([], None) => String::deserialize(deserializer).map(Some),
            ([], Some(_)) => deserializer.deserialize_seq(self),
            _ => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if self.path.first() == Some(&key) {
                found = map.next_value_seed(Find { path: &self.path[1..], ..self })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        for _ in 0..self.place.unwrap_or_default() {
            list.next_element::<IgnoredAny>()?;
        }
        let found = list.next_element::<String>()?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}
