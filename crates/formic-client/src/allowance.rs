//! The budget of a service for attempts that are not this client's calls: a proxy of plain HTTP sends requests of its
//! own to the same instances, and they must not be stormed twice over.

use std::sync::Arc;

use tokio::time::Instant;

use crate::Happening;
use crate::client::Shared;
use crate::service::Service;

/// What a service may be asked for beyond what was asked for, shared with the calls of the client that it is from.
#[derive(Clone)]
pub struct Allowance {
    client: Arc<Shared>,
    service: Arc<Service>,
}

impl std::fmt::Debug for Allowance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allowance").field("service", self.service.name()).finish_non_exhaustive()
    }
}

impl Allowance {
    pub(crate) fn new(client: Arc<Shared>, service: Arc<Service>) -> Self {
        Self { client, service }
    }

    /// Counts something that was asked for, which earns a share of a further attempt.
    pub fn call(&self) {
        self.service.budget().call(self.client.since_origin(Instant::now()));
    }

    /// Takes out a further attempt; `false` if none is left, and then it is not to be made. The client's observer is
    /// told.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        let (service, traffic) = (&self.service, self.service.traffic());
        self.client.withdraw(service.name(), service.budget(), &traffic, Instant::now(), Happening::Retry)
    }
}
