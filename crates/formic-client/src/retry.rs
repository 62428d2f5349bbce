//! When a call is made again: a pure decision about one failure.

use formic_core::{Code, Error};

/// When calls are made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many endpoints are tried for a call that reached none of them.
    pub endpoints: u32,
    /// How often a call to an idempotent method is repeated when an endpoint said `unavailable`.
    pub repeats: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { endpoints: 3, repeats: 1 }
    }
}

/// What a call has been through so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct History {
    /// Attempts that surely reached no handler.
    pub(crate) unsent: u32,
    /// Attempts beyond the first that may have reached one.
    pub(crate) repeats: u32,
}

/// What the call is, as far as retrying goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nature {
    pub(crate) idempotent: bool,
    /// The call is caused by a repetition, which is not repeated again below.
    pub(crate) retried: bool,
    /// The request is still there to be sent.
    pub(crate) replayable: bool,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Tell the caller.
    GiveUp,
    /// The same call elsewhere: no handler has seen it.
    Elsewhere,
    /// A repetition, marked as such.
    Repeat,
}

impl Config {
    pub(crate) fn judge(&self, error: &Error, nature: Nature, history: &mut History) -> Verdict {
        // Who says when to come back is not asked before.
        if !nature.replayable || error.retry_after().is_some() {
            return Verdict::GiveUp;
        }
        // A call that no handler saw is no repetition: nothing multiplies below, so it is made elsewhere
        // even for a call that is itself caused by a repetition.
        if error.is_unsent() {
            history.unsent += 1;
            return if history.unsent < self.endpoints { Verdict::Elsewhere } else { Verdict::GiveUp };
        }
        if nature.idempotent
            && !nature.retried
            && error.code() == Code::Unavailable
            && history.repeats < self.repeats
        {
            history.repeats += 1;
            return Verdict::Repeat;
        }
        Verdict::GiveUp
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PLAIN: Nature = Nature { idempotent: false, retried: false, replayable: true };
    const IDEMPOTENT: Nature = Nature { idempotent: true, ..PLAIN };

    fn judge(error: &Error, nature: Nature) -> Verdict {
        Config::default().judge(error, nature, &mut History::default())
    }

    #[test]
    fn what_no_handler_saw_goes_elsewhere_up_to_three_endpoints() {
        let unsent = Error::unavailable("refused").with_unsent();
        let mut history = History::default();
        let mut next = || Config::default().judge(&unsent, PLAIN, &mut history);
        assert_eq!([next(), next(), next()], [Verdict::Elsewhere, Verdict::Elsewhere, Verdict::GiveUp]);
        assert_eq!(judge(&unsent, Nature { retried: true, ..PLAIN }), Verdict::Elsewhere);
        assert_eq!(judge(&unsent, Nature { replayable: false, ..PLAIN }), Verdict::GiveUp);
    }

    #[test]
    fn only_an_idempotent_call_is_repeated_and_only_once() {
        let unavailable = Error::unavailable("lost");
        assert_eq!(judge(&unavailable, PLAIN), Verdict::GiveUp);
        let mut history = History::default();
        let mut next = || Config::default().judge(&unavailable, IDEMPOTENT, &mut history);
        assert_eq!([next(), next()], [Verdict::Repeat, Verdict::GiveUp]);
        assert_eq!(judge(&unavailable, Nature { retried: true, ..IDEMPOTENT }), Verdict::GiveUp);
    }

    #[test]
    fn other_failures_and_push_back_are_the_callers() {
        for code in Code::ALL.into_iter().filter(|&code| code != Code::Unavailable) {
            assert_eq!(judge(&Error::new(code, "x"), IDEMPOTENT), Verdict::GiveUp, "{code}");
        }
        let later = Error::unavailable("busy").with_retry_after(Duration::from_secs(1));
        assert_eq!(judge(&later, IDEMPOTENT), Verdict::GiveUp);
    }
}
