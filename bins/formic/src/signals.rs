//! The signals that ask a command for its end, listened to from the moment a function here is called: one
//! that arrives before somebody waits for it is neither lost nor deadly.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::{Failure, Outcome};

/// Has a command begin a process group of its own: a Ctrl-C at this terminal is not meant for it.
pub(crate) fn in_own_session(command: &mut std::process::Command) -> &mut std::process::Command {
    std::os::unix::process::CommandExt::process_group(command, 0)
}

/// Ctrl-C.
pub(crate) fn interrupt() -> Outcome<Signal> {
    listen(SignalKind::interrupt())
}

fn listen(kind: SignalKind) -> Outcome<Signal> {
    signal(kind).map_err(|error| Failure::user("cannot listen for signals").because(error))
}

/// Ctrl-C, SIGTERM, or the terminal that was closed.
pub(crate) struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// Which of them came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Ctrl-C or SIGTERM.
    Asked,
    /// The terminal that was closed; a part of a server is told so to begin anew.
    Hangup,
}

impl Ends {
    pub(crate) fn listen() -> Outcome<Self> {
        let (interrupt, terminate) = (interrupt()?, listen(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup: listen(SignalKind::hangup())? })
    }

    /// The next of them, for one to whom they are all the same. Cancel safe.
    pub(crate) async fn next(&mut self) {
        self.which().await;
    }

    /// The next of them, and which it is. Cancel safe. Of two that are there, the one that is no hangup: who is to end
    /// does not begin anew.
    pub(crate) async fn which(&mut self) -> End {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => End::Asked,
            _ = self.terminate.recv() => End::Asked,
            _ = self.hangup.recv() => End::Hangup,
        }
    }
}
