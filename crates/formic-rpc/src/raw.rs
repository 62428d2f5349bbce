//! A message that is only bytes, so that connectrpc's client carries any method without its types.
//!
//! In protobuf form the bytes are the encoded message, in JSON form the JSON text.

use buffa::encoding::Tag;
use buffa::view::{HasMessageView, MessageView, OwnedView};
use buffa::{DecodeContext, DecodeError, EncodeSink, Message, SizeCache};
use bytes::{Buf, Bytes};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Encoded bytes posing as a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl buffa::DefaultInstance for Raw {
    fn default_instance() -> &'static Self {
        static EMPTY: Raw = Raw(Bytes::new());
        &EMPTY
    }
}

impl Message for Raw {
    fn compute_size(&self, _: &mut SizeCache) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn write_to(&self, _: &mut SizeCache, buf: &mut impl EncodeSink) {
        buf.put_slice(&self.0);
    }

    fn encode_to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    fn merge_field(&mut self, _: Tag, buf: &mut impl Buf, _: DecodeContext<'_>) -> Result<(), DecodeError> {
        // Reached only by somebody who decodes field by field, which nobody does to raw bytes.
        self.0 = buf.copy_to_bytes(buf.remaining());
        Ok(())
    }

    fn clear(&mut self) {
        self.0 = Bytes::new();
    }

    fn decode(buf: &mut impl Buf) -> Result<Self, DecodeError> {
        Ok(Self(buf.copy_to_bytes(buf.remaining())))
    }

    fn decode_from_slice(data: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(Bytes::copy_from_slice(data)))
    }
}

/// The view of [`Raw`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawView<'a>(pub &'a [u8]);

impl<'a> MessageView<'a> for RawView<'a> {
    type Owned = Raw;

    fn decode_view(buf: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(Self(buf))
    }

    fn merge_view_field(
        &mut self,
        _: Tag,
        cur: &'a [u8],
        _: &'a [u8],
        _: DecodeContext<'_>,
    ) -> Result<&'a [u8], DecodeError> {
        self.0 = cur;
        Ok(&[])
    }

    fn merge_into_view(&mut self, buf: &'a [u8], _: DecodeContext<'_>) -> Result<(), DecodeError> {
        self.0 = buf;
        Ok(())
    }

    fn to_owned_message(&self) -> Result<Raw, DecodeError> {
        Ok(Raw(Bytes::copy_from_slice(self.0)))
    }

    fn to_owned_from_source(&self, source: Option<&Bytes>) -> Result<Raw, DecodeError> {
        Ok(Raw(match source {
            Some(bytes) if bytes.len() == self.0.len() => bytes.clone(),
            _ => Bytes::copy_from_slice(self.0),
        }))
    }
}

/// The handle that buffa asks of every message for views that own their buffer.
#[derive(Clone, Debug)]
pub struct RawOwnedView(OwnedView<RawView<'static>>);

impl From<OwnedView<RawView<'static>>> for RawOwnedView {
    fn from(view: OwnedView<RawView<'static>>) -> Self {
        Self(view)
    }
}

impl AsRef<OwnedView<RawView<'static>>> for RawOwnedView {
    fn as_ref(&self) -> &OwnedView<RawView<'static>> {
        &self.0
    }
}

impl HasMessageView for Raw {
    type View<'a> = RawView<'a>;
    type ViewHandle = RawOwnedView;
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // No bytes are no message, which stands where connectrpc wants one that is replaced later.
        if self.0.is_empty() {
            return serializer.serialize_unit();
        }
        let text = std::str::from_utf8(&self.0).map_err(serde::ser::Error::custom)?;
        let value: &RawValue = serde_json::from_str(text).map_err(serde::ser::Error::custom)?;
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(Bytes::from(value.get().as_bytes().to_vec())))
    }
}
