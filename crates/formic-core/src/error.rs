//! The error of a call: a code, a message for people, details for programs.
//!
//! It is what a handler returns and what a caller gets, over every transport. It is turned into a
//! wire status once, at the server's edge, and back once, at the client's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::detail::{self, Detail, ErrorInfo, FieldViolation, ResourceInfo};
use crate::{Code, Metadata};

/// Why a call failed.
///
/// Cheap to move (one pointer); the source never travels, so it may hold what callers must not see.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: String,
    details: Vec<Detail>,
    metadata: Metadata,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    unsent: bool,
    lost: bool,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident),* $(,)?) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Code::$code, message)
        })*
    };
}

impl Error {
    /// An error of this code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            details: Vec::new(),
            metadata: Metadata::new(),
            source: None,
            unsent: false,
            lost: false,
        }))
    }

    constructors! {
        /// The caller went away.
        canceled => Canceled,
        /// A foreign error without a better code.
        unknown => Unknown,
        /// The request can never succeed as it stands.
        invalid_argument => InvalidArgument,
        /// The deadline passed first.
        deadline_exceeded => DeadlineExceeded,
        /// The thing asked for does not exist.
        not_found => NotFound,
        /// The thing to be made exists already.
        already_exists => AlreadyExists,
        /// The caller is known and may not.
        permission_denied => PermissionDenied,
        /// A quota or a limit is used up.
        resource_exhausted => ResourceExhausted,
        /// The system is not in the state that the request needs.
        failed_precondition => FailedPrecondition,
        /// A conflict with another request.
        aborted => Aborted,
        /// Past the valid range.
        out_of_range => OutOfRange,
        /// No such method.
        unimplemented => Unimplemented,
        /// A bug or a broken invariant.
        internal => Internal,
        /// Not now; repeating may help.
        unavailable => Unavailable,
        /// Data is lost or corrupt.
        data_loss => DataLoss,
        /// The caller is not known.
        unauthenticated => Unauthenticated,
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Trailing metadata that came, or will go, with the error.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// Trailing metadata, to change.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.0.metadata
    }

    /// The details as they travel, in order; those with a typed reader included.
    #[must_use]
    pub fn details(&self) -> &[Detail] {
        &self.0.details
    }

    /// Adds a detail of any protobuf type.
    #[must_use]
    pub fn with_detail(mut self, type_name: impl Into<String>, value: impl Into<bytes::Bytes>) -> Self {
        self.0.details.push(Detail { type_name: type_name.into(), value: value.into() });
        self
    }

    /// Says which field of the request is wrong; may be repeated (`google.rpc.BadRequest`).
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        let violation = FieldViolation { field: field.into(), description: description.into() };
        let found = self.0.details.iter().position(|d| d.type_name == detail::BAD_REQUEST);
        let mut bytes = found.map(|at| self.0.details[at].value.to_vec()).unwrap_or_default();
        violation.encode_into(&mut bytes);
        let value = Detail { type_name: detail::BAD_REQUEST.into(), value: bytes.into() };
        match found {
            Some(at) => self.0.details[at] = value,
            None => self.0.details.push(value),
        }
        self
    }

    /// Gives a cause that programs can switch on (`google.rpc.ErrorInfo`).
    #[must_use]
    pub fn with_info<K: Into<String>, V: Into<String>>(
        mut self,
        domain: impl Into<String>,
        reason: impl Into<String>,
        metadata: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let metadata = metadata.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let info = ErrorInfo { reason: reason.into(), domain: domain.into(), metadata };
        self.0.details.push(info.encode());
        self
    }

    /// Says which resource the error is about (`google.rpc.ResourceInfo`).
    #[must_use]
    pub fn with_resource(
        mut self,
        resource_type: impl Into<String>,
        resource_name: impl Into<String>,
    ) -> Self {
        let info = ResourceInfo { resource_type: resource_type.into(), resource_name: resource_name.into() };
        self.0.details.push(info.encode());
        self
    }

    /// Says when a repetition may help (`google.rpc.RetryInfo`).
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.details.push(detail::encode_retry_after(after));
        self
    }

    /// Keeps the cause for logs on this side; it never travels.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Marks that the call never reached a handler, so that repeating it is safe for every method.
    #[must_use]
    pub fn with_unsent(mut self) -> Self {
        self.0.unsent = true;
        self
    }

    /// Whether the call surely never reached a handler. Known to the caller's side only.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        self.0.unsent
    }

    /// Marks that the connection ended while the call was on its way over it.
    #[must_use]
    pub fn with_lost(mut self) -> Self {
        self.0.lost = true;
        self
    }

    /// Whether the connection ended under the call, after it was sent: one event, however many calls it carried. Known to the
    /// caller's side only.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.lost
    }

    /// Whether repeating the same call later may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.unsent || self.0.code == Code::Unavailable || self.retry_after().is_some()
    }

    fn detail(&self, type_name: &str) -> Option<&[u8]> {
        self.0.details.iter().find(|d| d.type_name == type_name).map(|d| &d.value[..])
    }

    /// The fields that are wrong, if the error says so.
    #[must_use]
    pub fn fields(&self) -> Vec<FieldViolation> {
        self.detail(detail::BAD_REQUEST).map(FieldViolation::decode_all).unwrap_or_default()
    }

    /// The cause for programs, if the error has one.
    #[must_use]
    pub fn info(&self) -> Option<ErrorInfo> {
        self.detail(detail::ERROR_INFO).map(ErrorInfo::decode)
    }

    /// The resource in question, if the error names it.
    #[must_use]
    pub fn resource(&self) -> Option<ResourceInfo> {
        self.detail(detail::RESOURCE_INFO).map(ResourceInfo::decode)
    }

    /// When a repetition may help, if the error says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.detail(detail::RETRY_INFO).and_then(detail::decode_retry_after)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.message.is_empty() {
            write!(f, "{}", self.0.code)
        } else {
            write!(f, "{}: {}", self.0.code, self.0.message)
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("code", &self.0.code).field("message", &self.0.message);
        if !self.0.details.is_empty() {
            let names: Vec<_> = self.0.details.iter().map(|d| d.type_name.as_str()).collect();
            out.field("details", &names);
        }
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// An error with all its causes.
#[must_use]
pub fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_come_back_typed() {
        let error = Error::failed_precondition("card declined")
            .with_info("shop.payment", "CARD_DECLINED", [("last_four", "0002")])
            .with_field("card.number", "declined")
            .with_field("card.cvc", "wrong")
            .with_resource("payment", "p1")
            .with_retry_after(Duration::from_millis(1500));
        let info = error.info().expect("info");
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("shop.payment", "CARD_DECLINED"));
        assert_eq!(info.metadata, [("last_four".into(), "0002".into())]);
        assert_eq!(error.fields().len(), 2);
        assert_eq!(error.fields()[1].field, "card.cvc");
        assert_eq!(error.resource().expect("resource").resource_name, "p1");
        assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)));
        assert_eq!(error.details().len(), 4);
    }

    #[test]
    fn malformed_details_are_empty_and_never_panic() {
        for len in 0..40u8 {
            let bytes: Vec<u8> = (0..len).map(|i| i.wrapping_mul(37) ^ 0x8a).collect();
            let error = Error::internal("x")
                .with_detail("google.rpc.BadRequest", bytes.clone())
                .with_detail("google.rpc.ErrorInfo", bytes.clone())
                .with_detail("google.rpc.RetryInfo", bytes);
            let _ = (error.fields(), error.info(), error.retry_after());
        }
    }

    #[test]
    fn the_source_is_kept_out_of_the_text() {
        let error = Error::internal("cannot store").with_source(std::io::Error::other("disk on fire"));
        assert_eq!(error.to_string(), "internal: cannot store");
        assert!(std::error::Error::source(&error).is_some());
    }
}
