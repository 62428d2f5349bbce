//! Waiting for what happens elsewhere, bounded, with a word on what did not happen.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How long to wait between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Looks until there is something; `what` is for the panic at the end.
///
/// # Panics
/// If there is nothing within the time.
pub async fn wait_for<T, Fut>(what: &str, within: Duration, mut look: impl FnMut() -> Fut) -> T
where
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} for {what}, in vain");
        sleep(STEP).await;
    }
}

/// Awaits something that must not take longer; `what` is for the panic if it does.
///
/// # Panics
/// If it takes longer.
pub async fn in_time<T>(what: &str, within: Duration, future: impl Future<Output = T>) -> T {
    match timeout(within, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {within:?} for {what}, in vain"),
    }
}

/// Looks until something is so.
///
/// # Panics
/// If it is not within the time.
pub async fn wait_until(what: &str, within: Duration, mut so: impl FnMut() -> bool) {
    wait_for(what, within, || std::future::ready(so().then_some(()))).await;
}
