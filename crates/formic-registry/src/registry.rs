//! The plug point itself: the trait, the lease, and what every implementation checks first.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use serde::{Deserialize, Serialize};

use crate::{Error, Watch};

/// A boxed future: the trait is stored as `dyn`, and none of its calls is hot.
pub type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;

/// A registry as it is stored and handed around.
pub type DynRegistry = Arc<dyn Registry>;

/// Leases are never granted for longer: a forgotten instance must go away some day.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A place where instances are announced and found.
///
/// # Contract
/// - A registration lives until its lease expires, is replaced, or is deregistered.
/// - Instances of one id replace each other; the lease of the replaced one has expired.
/// - `deregister` is idempotent: an unknown id is a success.
/// - `get` of an unknown service is an empty list, not an error.
/// - Every list of instances is sorted by id.
/// - `watch` follows the rules of [`Watch`].
/// - No call blocks the thread; a call that needs the network bounds its own wait.
///
/// `formic_registry::conformance` tests all of it.
pub trait Registry: fmt::Debug + Send + Sync + 'static {
    /// Announces an instance for `ttl`; the lease says for how long it was really granted.
    ///
    /// # Errors
    /// `Invalid` if the instance or the ttl cannot be held, `ReadOnly`, `Unavailable`.
    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<Lease, Error>>;

    /// Prolongs a lease by its ttl, from now.
    ///
    /// # Errors
    /// `LeaseExpired` if the lease is not the current one of its instance, `Unavailable`.
    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), Error>>;

    /// Takes an instance off the registry, whoever registered it.
    ///
    /// # Errors
    /// `ReadOnly`, `Unavailable`.
    fn deregister<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), Error>>;

    /// The instances of a service, now.
    ///
    /// # Errors
    /// `Unavailable`.
    fn get<'a>(&'a self, service: &'a ServiceName) -> BoxFuture<'a, Result<Vec<Instance>, Error>>;

    /// Every service that has an instance, sorted by name.
    ///
    /// # Errors
    /// `Unavailable`.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ServiceEntry>, Error>>;

    /// Follows one service, or all of them.
    ///
    /// Returns at once and does nothing until the watch is polled; a registry that cannot be reached
    /// says so by the watch's first item.
    fn watch(&self, service: Option<ServiceName>) -> Watch;

    /// Whether the content is fixed, so that nobody should try to register.
    fn read_only(&self) -> bool {
        false
    }
}

/// Names one grant of one registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

/// The right to stay registered for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Which grant.
    pub id: LeaseId,
    /// Whose.
    pub instance: InstanceId,
    /// For how long from the registration or the last renewal.
    pub ttl: Duration,
}

/// A service and how many instances it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// Its name.
    pub service: ServiceName,
    /// How many instances are registered; at least 1.
    pub instances: usize,
}

/// What every implementation refuses to hold; returns the ttl to grant.
///
/// # Errors
/// `Invalid`, with the reason.
pub fn validate(instance: &Instance, ttl: Duration) -> Result<Duration, Error> {
    let id = instance.id.as_str();
    if id.is_empty() || id.len() > 255 || id.chars().any(char::is_control) {
        return Err(Error::Invalid(format!(
            "the id {id:?} must have 1 to 255 bytes and no control characters"
        )));
    }
    if let Endpoint::Tcp(addr) = &instance.endpoint {
        if addr.port() == 0 {
            return Err(Error::Invalid(format!("nobody can call {addr}: register the port that was bound")));
        }
        if addr.ip().is_unspecified() {
            return Err(Error::Invalid(format!("nobody can call {addr}: say which address to advertise")));
        }
    }
    if ttl.is_zero() {
        return Err(Error::Invalid("a lease of no length".into()));
    }
    Ok(ttl.min(MAX_TTL))
}
