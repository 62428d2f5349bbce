//! A refusal before any work was done: who is overloaded says so in a way that programs can tell from a
//! failure.
//!
//! The mark is a `google.rpc.ErrorInfo` of the domain [`DOMAIN`]; it travels over every protocol, and
//! other languages read it too. With it come a `google.rpc.RetryInfo` and gRPC's own push-back.

use std::time::Duration;

use crate::{Code, Error};

/// The domain of the `ErrorInfo` that marks a refusal.
pub const DOMAIN: &str = "formic.shed";

/// Trailing metadata that gRPC clients read: milliseconds until a repetition may help (gRFC A6).
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Why a call was refused before any work. No handler has seen it, so it may be made elsewhere, whatever
/// the method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shed {
    /// The server has its fixed number of calls in flight.
    InFlight,
    /// So many calls wait for their turn that there is no room for another.
    QueueFull,
    /// The call waited for its turn for too long.
    QueueDelay,
    /// The caller, or whatever the limit counts, has used up its rate. Other instances may count alike.
    Rate,
    /// The server holds as many bytes of requests and answers as it may.
    Memory,
}

impl Shed {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::InFlight, Self::QueueFull, Self::QueueDelay, Self::Rate, Self::Memory];

    /// The reason as it travels in `ErrorInfo`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InFlight => "IN_FLIGHT",
            Self::QueueFull => "QUEUE_FULL",
            Self::QueueDelay => "QUEUE_DELAY",
            Self::Rate => "RATE",
            Self::Memory => "MEMORY",
        }
    }

    /// The reason of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// The code that goes with it: a fixed quota is `resource_exhausted`, the state of the moment is
    /// `unavailable`.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::InFlight | Self::Rate | Self::Memory => Code::ResourceExhausted,
            Self::QueueFull | Self::QueueDelay => Code::Unavailable,
        }
    }
}

impl Error {
    /// A refusal before any work, with the time after which a repetition here may help.
    #[must_use]
    pub fn shed(reason: Shed, message: impl Into<String>, after: Duration) -> Self {
        let none: [(&str, &str); 0] = [];
        let mut error = Self::new(reason.code(), message)
            .with_info(DOMAIN, reason.as_str(), none)
            .with_retry_after(after);
        // At least one: 0 would have a client come back at once.
        let millis = after.as_millis().clamp(1, 3_600_000);
        let pushed = error.metadata_mut().insert(PUSHBACK, &millis.to_string());
        debug_assert!(pushed.is_ok(), "digits are valid metadata");
        error
    }

    /// Why the call was refused before any work, if that is what the error says.
    #[must_use]
    pub fn shed_reason(&self) -> Option<Shed> {
        // The code first: nearly all errors are told by it without a look at their details.
        if !matches!(self.code(), Code::ResourceExhausted | Code::Unavailable) {
            return None;
        }
        let info = self.info().filter(|info| info.domain == DOMAIN)?;
        Shed::from_name(&info.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_a_failure() {
        for reason in Shed::ALL {
            let error = Error::shed(reason, "busy", Duration::from_millis(250));
            assert_eq!(error.shed_reason(), Some(reason));
            assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
            assert_eq!(error.metadata().get(PUSHBACK), Some("250"));
        }
        assert_eq!(Error::unavailable("lost").shed_reason(), None);
        let theirs = Error::resource_exhausted("quota").with_info("shop", "RATE", [("a", "b")]);
        assert_eq!(theirs.shed_reason(), None, "another domain");
        let none: [(&str, &str); 0] = [];
        let wrong = Error::internal("x").with_info(DOMAIN, "RATE", none);
        assert_eq!(wrong.shed_reason(), None, "another code");
        let never = Error::shed(Shed::Rate, "x", Duration::ZERO);
        assert_eq!(never.metadata().get(PUSHBACK), Some("1"));
    }
}
