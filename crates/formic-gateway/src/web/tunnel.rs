//! Connections that go over to another protocol: from then on bytes, both ways, until one side ends.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::backend::Load;

/// Carries bytes between the two; a failure of either is its end.
pub(crate) async fn carry(caller: OnUpgrade, instance: OnUpgrade, load: Load) {
    let both = async {
        let (caller, instance) = tokio::try_join!(caller, instance).map_err(std::io::Error::other)?;
        copy_bidirectional(&mut TokioIo::new(caller), &mut TokioIo::new(instance)).await
    };
    match both.await {
        Ok((up, down)) => tracing::debug!(up, down, "a tunnel ended"),
        Err(error) => tracing::debug!(%error, "a tunnel broke"),
    }
    drop(load);
}
