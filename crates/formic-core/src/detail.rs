//! Rich error details: the four messages of `google/rpc/error_details.proto` that services really
//! use, encoded and decoded by hand so that floor 0 needs no protobuf library.
//!
//! The field numbers are fixed by Google's public API design; unknown fields are skipped.

use std::time::Duration;

use bytes::Bytes;

/// A detail as it travels: a type name and protobuf bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// Full protobuf name, for example `google.rpc.BadRequest`, without `type.googleapis.com/`.
    pub type_name: String,
    /// The encoded message.
    pub value: Bytes,
}

/// One field of a request that is wrong (`google.rpc.BadRequest.FieldViolation`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field, for example `items[2].quantity`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// A cause that programs can switch on (`google.rpc.ErrorInfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorInfo {
    /// Constant in UPPER_SNAKE_CASE, unique within the domain.
    pub reason: String,
    /// Who defines the reason, for example `shop.payment`.
    pub domain: String,
    /// More about this case.
    pub metadata: Vec<(String, String)>,
}

/// The resource that an error is about (`google.rpc.ResourceInfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceInfo {
    /// Kind, for example `product`.
    pub resource_type: String,
    /// Which one.
    pub resource_name: String,
}

pub(crate) const BAD_REQUEST: &str = "google.rpc.BadRequest";
pub(crate) const ERROR_INFO: &str = "google.rpc.ErrorInfo";
pub(crate) const RESOURCE_INFO: &str = "google.rpc.ResourceInfo";
pub(crate) const RETRY_INFO: &str = "google.rpc.RetryInfo";

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    if !value.is_empty() {
        put_varint(out, field << 3 | 2);
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

fn get_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

enum Value<'a> {
    Int(u64),
    Bytes(&'a [u8]),
}

/// Walks the fields of a message; stops quietly at the first malformed byte, as details are advisory.
fn fields(mut input: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        loop {
            let key = get_varint(&mut input)?;
            match key & 7 {
                0 => return Some((key >> 3, Value::Int(get_varint(&mut input)?))),
                2 => {
                    let len = usize::try_from(get_varint(&mut input)?).ok()?;
                    let value = input.get(..len)?;
                    input = &input[len..];
                    return Some((key >> 3, Value::Bytes(value)));
                }
                1 => input = input.get(8..)?,
                5 => input = input.get(4..)?,
                _ => return None,
            }
        }
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn strings<const N: usize>(input: &[u8]) -> [String; N] {
    let mut out = std::array::from_fn(|_| String::new());
    for (field, value) in fields(input) {
        if let (Some(slot), Value::Bytes(bytes)) = (out.get_mut((field as usize).wrapping_sub(1)), value) {
            *slot = text(bytes);
        }
    }
    out
}

impl FieldViolation {
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        let mut inner = Vec::new();
        put_bytes(&mut inner, 1, self.field.as_bytes());
        put_bytes(&mut inner, 2, self.description.as_bytes());
        put_varint(out, 1 << 3 | 2);
        put_varint(out, inner.len() as u64);
        out.extend_from_slice(&inner);
    }

    pub(crate) fn decode_all(input: &[u8]) -> Vec<Self> {
        fields(input)
            .filter_map(|(field, value)| match value {
                Value::Bytes(bytes) if field == 1 => {
                    let [field, description] = strings::<2>(bytes);
                    Some(Self { field, description })
                }
                _ => None,
            })
            .collect()
    }
}

impl ErrorInfo {
    pub(crate) fn encode(&self) -> Detail {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, self.reason.as_bytes());
        put_bytes(&mut out, 2, self.domain.as_bytes());
        for (key, value) in &self.metadata {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            put_bytes(&mut entry, 2, value.as_bytes());
            put_bytes(&mut out, 3, &entry);
        }
        Detail { type_name: ERROR_INFO.into(), value: out.into() }
    }

    pub(crate) fn decode(input: &[u8]) -> Self {
        let [reason, domain] = strings::<2>(input);
        let metadata = fields(input)
            .filter_map(|(field, value)| match value {
                Value::Bytes(bytes) if field == 3 => {
                    let [key, value] = strings::<2>(bytes);
                    Some((key, value))
                }
                _ => None,
            })
            .collect();
        Self { reason, domain, metadata }
    }
}

impl ResourceInfo {
    pub(crate) fn encode(&self) -> Detail {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, self.resource_type.as_bytes());
        put_bytes(&mut out, 2, self.resource_name.as_bytes());
        Detail { type_name: RESOURCE_INFO.into(), value: out.into() }
    }

    pub(crate) fn decode(input: &[u8]) -> Self {
        let [resource_type, resource_name] = strings::<2>(input);
        Self { resource_type, resource_name }
    }
}

pub(crate) fn encode_retry_after(after: Duration) -> Detail {
    let mut duration = Vec::new();
    if after.as_secs() > 0 {
        put_varint(&mut duration, 1 << 3);
        put_varint(&mut duration, after.as_secs());
    }
    if after.subsec_nanos() > 0 {
        put_varint(&mut duration, 2 << 3);
        put_varint(&mut duration, u64::from(after.subsec_nanos()));
    }
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &duration);
    Detail { type_name: RETRY_INFO.into(), value: out.into() }
}

pub(crate) fn decode_retry_after(input: &[u8]) -> Option<Duration> {
    let mut after = Duration::ZERO;
    for (field, value) in fields(input) {
        if let (1, Value::Bytes(duration)) = (field, value) {
            for part in fields(duration) {
                match part {
                    (1, Value::Int(secs)) => after += Duration::from_secs(secs.min(u64::from(u32::MAX))),
                    (2, Value::Int(nanos)) => after += Duration::from_nanos(nanos.min(999_999_999)),
                    _ => {}
                }
            }
        }
    }
    (!after.is_zero()).then_some(after)
}
