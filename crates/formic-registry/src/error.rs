//! Why a registry refused or failed, in the few kinds that callers treat differently.

use std::sync::Arc;

use formic_core::InstanceId;

/// Why an operation on a registry failed.
///
/// Cloneable, because a failure travels by `watch` to readiness and metrics.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry does not know the lease (any more): register again, at once.
    #[error("the lease of instance {instance} has expired")]
    LeaseExpired {
        /// Whose lease.
        instance: InstanceId,
    },
    /// The registry cannot be reached or does not answer: the same call may succeed later.
    #[error("the registry is unavailable: {reason}")]
    Unavailable {
        /// What was tried, for people.
        reason: String,
        /// The failure below, if there is one.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// What was asked can never succeed as it stands.
    #[error("the registration is invalid: {0}")]
    Invalid(String),
    /// This registry has a fixed content.
    #[error("the {registry} registry takes no registrations: {hint}")]
    ReadOnly {
        /// Which registry.
        registry: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
}

impl Error {
    /// The registry cannot be reached; `reason` says what was tried.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), source: None }
    }

    /// The same, with the failure below.
    pub fn unavailable_because(
        reason: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Unavailable { reason: reason.into(), source: Some(Arc::new(source)) }
    }

    /// Whether the same call, or a new registration, may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::LeaseExpired { .. } | Self::Unavailable { .. } => true,
            Self::Invalid(_) | Self::ReadOnly { .. } => false,
        }
    }
}
