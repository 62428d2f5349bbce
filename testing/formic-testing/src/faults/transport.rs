//! What befalls the connections of a real client: between it and its sockets.

use std::io;
use std::sync::Arc;

use formic_client::{BoxIo, Connect, connect};
use formic_core::Endpoint;
use formic_rpc::BoxFuture;
use tokio::io::duplex;

use super::{Inner, Link, pump};

/// What is on its way in each direction.
const BUFFER: usize = 64 << 10;

/// How a client of this name connects.
pub(super) struct Transport {
    pub(super) inner: Arc<Inner>,
    pub(super) name: String,
}

impl Connect for Transport {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<BoxIo>> {
        let (inner, endpoint) = (Arc::clone(&self.inner), endpoint.clone());
        let link = Link::new(Arc::clone(&inner), &self.name, &inner.name_of(&endpoint));
        Box::pin(async move {
            let fault = link.open().map_err(|_| io::ErrorKind::ConnectionRefused)?;
            let server = connect::open(None, &endpoint).await?;
            let (ours, theirs) = duplex(BUFFER);
            // Ends with its connection, which one of both sides lets go of.
            drop(tokio::task::spawn(pump(theirs, server, link, fault)));
            Ok(Box::new(ours) as BoxIo)
        })
    }
}
