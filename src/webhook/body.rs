//! What a JSON body says of its own delivery: five fields, read without building the document.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value of the body, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Value {
    /// Absent, or null.
    #[default]
    Absent,
    /// A string.
    Text(String),
    /// A whole number from 0 up.
    Number(u64),
    /// An object.
    Object(Box<Replay>),
    /// Something else.
    Other,
}

/// The fields of a body that go into the header of its delivery.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct BodyFields {
    pub(super) event: Value,
    pub(super) schema: Value,
    pub(super) key: Value,
    pub(super) replay: Replay,
    /// One of them that is there twice: parsers differ on which one counts.
    pub(super) repeated: Option<&'static str>,
}

/// The body's `replay_protection`; of any other object the same two fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replay {
    pub(super) timestamp: Value,
    pub(super) nonce: Value,
    repeated: Option<&'static str>,
}

/// Names of the fields, as errors tell them.
pub(super) const EVENT: &str = "event";
pub(super) const SCHEMA: &str = "schema_version";
pub(super) const KEY: &str = "idempotency_key";
pub(super) const TIMESTAMP: &str = "replay_protection.timestamp";
pub(super) const NONCE: &str = "replay_protection.nonce";
const REPLAY: &str = "replay_protection";

impl BodyFields {
    /// Reads them. A body that is not one JSON object has none.
    pub(super) fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }
}

/// A key of an object, as far as it matters here.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    Event,
    SchemaVersion,
    IdempotencyKey,
    ReplayProtection,
    Timestamp,
    Nonce,
    #[serde(other)]
    Other,
}

/// Takes a value for a field, and notes when there was one already.
fn take<'de, A: MapAccess<'de>>(
    map: &mut A,
    place: &mut Option<Value>,
    name: &'static str,
    repeated: &mut Option<&'static str>,
) -> Result<(), A::Error> {
    if place.replace(map.next_value()?).is_some() {
        repeated.get_or_insert(name);
    }
    Ok(())
}

impl<'de> Deserialize<'de> for BodyFields {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Top;

        impl<'de> Visitor<'de> for Top {
            type Value = BodyFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BodyFields, A::Error> {
                let (mut event, mut schema, mut key) = (None, None, None);
                let mut replay = None;
                let mut repeated = None;
                while let Some(name) = map.next_key::<Name>()? {
                    match name {
                        Name::Event => take(&mut map, &mut event, EVENT, &mut repeated)?,
                        Name::SchemaVersion => take(&mut map, &mut schema, SCHEMA, &mut repeated)?,
                        Name::IdempotencyKey => take(&mut map, &mut key, KEY, &mut repeated)?,
                        Name::ReplayProtection => {
                            take(&mut map, &mut replay, REPLAY, &mut repeated)?;
                        }
                        Name::Timestamp | Name::Nonce | Name::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                let replay = match replay.unwrap_or_default() {
                    Value::Object(replay) => *replay,
                    // A flag or a note: it names neither timestamp nor nonce.
                    Value::Absent | Value::Text(_) | Value::Number(_) | Value::Other => {
                        Replay::default()
                    }
                };
                Ok(BodyFields {
                    event: event.unwrap_or_default(),
                    schema: schema.unwrap_or_default(),
                    key: key.unwrap_or_default(),
                    repeated: repeated.or(replay.repeated),
                    replay,
                })
            }
        }

        json.deserialize_map(Top)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Absent)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value::Number(number))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let (mut timestamp, mut nonce, mut repeated) = (None, None, None);
                while let Some(name) = map.next_key::<Name>()? {
                    match name {
                        Name::Timestamp => {
                            take(&mut map, &mut timestamp, TIMESTAMP, &mut repeated)?;
                        }
                        Name::Nonce => take(&mut map, &mut nonce, NONCE, &mut repeated)?,
                        Name::Event
                        | Name::SchemaVersion
                        | Name::IdempotencyKey
                        | Name::ReplayProtection
                        | Name::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Value::Object(Box::new(Replay {
                    timestamp: timestamp.unwrap_or_default(),
                    nonce: nonce.unwrap_or_default(),
                    repeated,
                })))
            }
        }

        json.deserialize_any(Any)
    }
}
