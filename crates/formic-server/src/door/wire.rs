//! The door over the multiplexed wire: a call that is turned away gets no credit, and the connection goes on.

use formic_mux::machine::Request;
use formic_mux::server::door;
use formic_rpc::{Call, Peer};
use tokio::time::Instant;

use super::{Door, Entrance, Held};
use crate::overload::Head;

impl door::Door for Door {
    fn ask(&self, request: &Request, peer: Option<&Peer>) -> door::Entrance {
        let head = Head { path: &request.path, headers: request.metadata.as_headers(), peer };
        let deadline = Instant::now() + self.bounds.timeout(request.timeout);
        match self.enter(&head, request.timeout, deadline) {
            Entrance::Open(held) => door::Entrance::Open(Box::new(held)),
            Entrance::Wait(waiting) => door::Entrance::Wait(Box::pin(async move {
                waiting.await.map(|held| Box::new(held) as Box<dyn door::Place>)
            })),
            Entrance::Closed(error) => door::Entrance::Closed(error),
        }
    }
}

impl door::Place for Held {
    fn until(&self) -> Instant {
        self.until
    }

    fn give_up(&self) {
        self.pass.give_up();
    }

    fn begin(self: Box<Self>, call: &mut Call) {
        call.extensions.insert(self.pass);
    }
}
