//! `port`: the one that a program is given. Written by hand and not as an untagged enum, whose errors say
//! nothing: a number is itself, in manifests and in what is stored.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// The word for a port that the engine chooses.
const AUTO: &str = "auto";

/// The port of a program that knows nothing of Formic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// This one, which only one instance at a time can have.
    Fixed(u16),
    /// Any free one, chosen by the engine at each start.
    Auto,
}

// === impl Port ===

impl Port {
    /// The number, where the manifest says it.
    #[must_use]
    pub const fn fixed(self) -> Option<u16> {
        match self {
            Self::Fixed(port) => Some(port),
            Self::Auto => None,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(port) => port.fmt(f),
            Self::Auto => f.pad(AUTO),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(port) => serializer.serialize_u16(*port),
            Self::Auto => serializer.serialize_str(AUTO),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port or \"auto\"")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Port, E> {
                let port = u16::try_from(number).map(Port::Fixed);
                port.map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Port, E> {
                if word == AUTO {
                    Ok(Port::Auto)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(word), &self))
                }
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_number_stays_a_number_and_auto_a_word() {
        for (port, text) in [(Port::Fixed(8001), "8001"), (Port::Auto, "\"auto\"")] {
            assert_eq!(serde_json::to_string(&port).unwrap(), text);
            assert_eq!(serde_json::from_str::<Port>(text).unwrap(), port);
        }
        for bad in ["70000", "\"any\"", "-1", "1.5", "[]"] {
            assert!(serde_json::from_str::<Port>(bad).is_err(), "{bad}");
        }
        assert_eq!((Port::Fixed(1).fixed(), Port::Auto.fixed()), (Some(1), None));
        assert_eq!(format!("{} {}", Port::Fixed(80), Port::Auto), "80 auto");
    }
}
