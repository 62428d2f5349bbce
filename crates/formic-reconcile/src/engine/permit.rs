//! Whether what was decided is on the disk: what was to be started waits behind its gate until then.
//!
//! One for each turn. A file system takes milliseconds to sync, and so does a process to come up to its gate; done beside
//! each other, a start takes as long as the longer of the two.

use tokio::sync::watch;

/// What the starts of one turn wait for.
#[derive(Clone, Debug)]
pub(crate) struct Permit(watch::Receiver<Option<Result<(), String>>>);

/// Gives or withholds the permit of one turn. Dropped before, it is withheld.
#[derive(Debug)]
pub(crate) struct Permits(watch::Sender<Option<Result<(), String>>>);

// === impl Permit ===

impl Permit {
    /// One that nobody has given yet.
    pub(crate) fn pending() -> (Permits, Self) {
        let (said, hears) = watch::channel(None);
        (Permits(said), Self(hears))
    }

    /// Waits until it is given, or says why it is not.
    pub(crate) async fn wait(mut self) -> Result<(), String> {
        let said = self.0.wait_for(Option::is_some).await;
        said.ok().and_then(|said| said.clone()).unwrap_or_else(|| Err("the engine ends".to_owned()))
    }
}

// === impl Permits ===

impl Permits {
    /// Gives it, or withholds it because the decision could not be written down.
    pub(crate) fn say(self, unsaved: Option<&str>) {
        let said = unsaved.map_or(Ok(()), |why| Err(format!("the engine's state cannot be written: {why}")));
        self.0.send_replace(Some(said));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_waits_until_the_decision_is_written_and_hears_if_it_is_not() {
        let (permits, permit) = Permit::pending();
        let waiting = tokio::spawn(permit.clone().wait());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        permits.say(None);
        assert_eq!(waiting.await.ok(), Some(Ok(())));
        assert_eq!(permit.wait().await, Ok(()));
        let (permits, permit) = Permit::pending();
        permits.say(Some("no room"));
        assert_eq!(permit.wait().await, Err("the engine's state cannot be written: no room".to_owned()));
        let (permits, permit) = Permit::pending();
        drop(permits);
        assert_eq!(permit.wait().await, Err("the engine ends".to_owned()));
    }
}
