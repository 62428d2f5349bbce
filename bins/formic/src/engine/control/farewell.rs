//! What is followed is told when the server is stopped: there will be no next brain to go on with.

use formic_core::Error;
use formic_rpc::Streaming;
use tokio_util::sync::CancellationToken;

use super::Control;

/// Why a stream ended, for programs.
const DOMAIN: &str = "formic.server";
const STOPPED: &str = "STOPPED";

/// The end of a stream whose server was stopped.
fn stopped() -> Error {
    let none: [(&str, &str); 0] = [];
    Error::unavailable("the server was stopped; what runs goes on").with_info(DOMAIN, STOPPED, none)
}

/// Whether an error says so.
pub(crate) fn is_stopped(error: &Error) -> bool {
    error.info().is_some_and(|info| info.domain == DOMAIN && info.reason == STOPPED)
}

impl Control {
    /// The same messages until the server is stopped, and then that.
    pub(super) fn until_stopped<M: Send + 'static>(&self, messages: Streaming<M>) -> Streaming<M> {
        match &self.managed {
            Some(managed) => until(messages, managed.stopped.clone()),
            None => messages,
        }
    }
}

fn until<M: Send + 'static>(messages: Streaming<M>, stop: CancellationToken) -> Streaming<M> {
    Streaming::new(futures::stream::unfold(Some(messages), move |messages| {
        let stop = stop.clone();
        async move {
            let mut messages = messages?;
            // What is there already comes first.
            tokio::select! {
                biased;
                message = messages.message() => message.transpose().map(|message| (message, Some(messages))),
                () = stop.cancelled() => Some((Err(stopped()), None)),
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[tokio::test]
    async fn what_is_there_comes_before_the_word_that_it_ended() {
        let (stop, rest) = (CancellationToken::new(), futures::stream::pending());
        let all = futures::StreamExt::chain(futures::stream::iter([Ok(1), Ok(2)]), rest);
        let mut messages = until(Streaming::new(all), stop.clone());
        assert_eq!(messages.message().await.unwrap(), Some(1));
        stop.cancel();
        assert_eq!(messages.message().await.unwrap(), Some(2));
        assert!(is_stopped(&messages.message().await.unwrap_err()));
        assert_eq!(messages.message().await.unwrap(), None);
    }

    #[tokio::test]
    async fn one_that_ends_by_itself_ends_without_a_word() {
        let ended = Streaming::new(futures::stream::iter([Ok(1)]));
        let mut messages = until(ended, CancellationToken::new());
        assert_eq!(messages.message().await.unwrap(), Some(1));
        assert_eq!(messages.message().await.unwrap(), None);
        assert!(!is_stopped(&Error::unavailable("gone")));
    }
}
