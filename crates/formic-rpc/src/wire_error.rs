//! Our error to connectrpc's and back: once at the server's edge, once at the client's.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use formic_core::{Code, Error};

/// Connect sends details without padding; some peers pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A failure of the transport, and how far the call had come.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The server surely saw nothing of it.
    #[error("the call was not sent")]
    Unsent(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its connection ended under it.
    #[error("the connection was lost")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// For the wire.
#[must_use]
pub fn to_connect(error: &Error) -> ConnectError {
    let code = ErrorCode::from_grpc_code(u32::from(error.code().number())).unwrap_or(ErrorCode::Unknown);
    let mut out = ConnectError::new(code, error.message());
    for detail in error.details() {
        out = out.with_detail(ErrorDetail {
            type_url: detail.type_name.clone(),
            value: Some(BASE64.encode(&detail.value)),
            debug: None,
        });
    }
    if !error.metadata().is_empty() {
        out.set_trailers(error.metadata().as_headers().clone());
    }
    out
}

/// From the wire.
#[must_use]
pub fn from_connect(error: &ConnectError) -> Error {
    let code = Code::from_number(error.code.grpc_code()).unwrap_or(Code::Unknown);
    let mut out = Error::new(code, error.message.clone().unwrap_or_default());
    for detail in &error.details {
        // The type comes as a name from Connect and as a URL from gRPC.
        let name = detail.type_url.rsplit('/').next().unwrap_or_default();
        if let Ok(value) = BASE64.decode(detail.value.as_deref().unwrap_or_default()) {
            out = out.with_detail(name, value);
        }
    }
    let metadata = out.metadata_mut().as_headers_mut();
    for (name, value) in error.response_headers().iter().chain(error.trailers()) {
        metadata.append(name.clone(), value.clone());
    }
    if let Some(source) = error.source_arc() {
        let broken: fn(Error) -> Error = match source.downcast_ref::<Broken>() {
            Some(Broken::Unsent(_)) => Error::with_unsent,
            Some(Broken::Lost(_)) => Error::with_lost,
            None => |error| error,
        };
        // Without its reason "connection refused" reads as "request failed".
        let mut reason: &dyn std::error::Error = &*source;
        while let Some(deeper) = reason.source() {
            reason = deeper;
        }
        let message = format!("{}: {reason}", error.message.as_deref().unwrap_or("the transport failed"));
        let metadata = std::mem::take(out.metadata_mut());
        out = Error::new(code, message).with_source(source);
        *out.metadata_mut() = metadata;
        out = broken(out);
    }
    out
}
