//! When a call is made again: a pure decision about one failure.

use std::time::Duration;

pub use formic_balance::traffic::Retry as Config;
use formic_core::{Code, Error, Shed};
/// Of errors that were repeated or given up on: whoever gets one from a handler that hands it on does not repeat the
/// whole once more.
pub(crate) use formic_rpc::context::{is_marked, mark_repeated as mark};

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
    /// How long its caller still waits.
    pub(crate) left: Option<Duration>,
    /// The next attempt would be at an endpoint that it has not tried.
    pub(crate) elsewhere: bool,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Tell the caller.
    GiveUp,
    /// The same call elsewhere: no handler has seen it.
    Elsewhere,
    /// A repetition, marked as such, after as long as the server asked for.
    Repeat(Duration),
}

/// Whether who failed asks for a wait for itself alone: whoever sheds load does, unless it is somebody further down. A
/// rate limit may be the same for all.
pub(crate) fn speaks_for_itself(error: &Error) -> bool {
    error.shed_reason().is_some_and(|reason| reason != Shed::Rate) && !is_marked(error)
}

/// Judges a failure, and notes it in the history of the call.
pub(crate) fn judge(config: &Config, error: &Error, nature: Nature, history: &mut History) -> Verdict {
    // Another endpoint asked for no wait.
    let shed = speaks_for_itself(error);
    let wait = error.retry_after().filter(|_| !(shed && nature.elsewhere));
    // Who says when to come back is not asked before, and nobody waits in vain.
    let in_time = |wait: Duration| wait <= config.max_wait && nature.left.is_none_or(|left| wait < left);
    if !nature.replayable || wait.is_some_and(|wait| !in_time(wait)) {
        return Verdict::GiveUp;
    }
    // A call that no handler saw is no repetition: nothing multiplies below, so it is made elsewhere
    // even for a call that is itself caused by a repetition.
    if error.is_unsent() {
        history.unsent += 1;
        return if history.unsent < config.endpoints { Verdict::Elsewhere } else { Verdict::GiveUp };
    }
    // A server that is too busy and says for how long invites to come back.
    let invited = shed || error.code() == Code::ResourceExhausted && wait.is_some();
    if nature.idempotent
        && !nature.retried
        && !is_marked(error)
        && (invited || config.codes.contains(&error.code()))
        && history.repeats < config.repeats
    {
        history.repeats += 1;
        return Verdict::Repeat(wait.unwrap_or_default());
    }
    Verdict::GiveUp
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Nature =
        Nature { idempotent: false, retried: false, replayable: true, left: None, elsewhere: false };
    const MS: Duration = Duration::from_millis(1);
    const IDEMPOTENT: Nature = Nature { idempotent: true, ..PLAIN };

    fn judge(error: &Error, nature: Nature) -> Verdict {
        super::judge(&Config::default(), error, nature, &mut History::default())
    }

    #[test]
    fn what_no_handler_saw_goes_elsewhere_up_to_three_endpoints() {
        let unsent = Error::unavailable("refused").with_unsent();
        let mut history = History::default();
        let mut next = || super::judge(&Config::default(), &unsent, PLAIN, &mut history);
        assert_eq!([next(), next(), next()], [Verdict::Elsewhere, Verdict::Elsewhere, Verdict::GiveUp]);
        assert_eq!(judge(&unsent, Nature { retried: true, ..PLAIN }), Verdict::Elsewhere);
        assert_eq!(judge(&unsent, Nature { replayable: false, ..PLAIN }), Verdict::GiveUp);
    }

    #[test]
    fn only_an_idempotent_call_is_repeated_and_only_once() {
        let unavailable = Error::unavailable("lost");
        assert_eq!(judge(&unavailable, PLAIN), Verdict::GiveUp);
        let mut history = History::default();
        let mut next = || super::judge(&Config::default(), &unavailable, IDEMPOTENT, &mut history);
        assert_eq!([next(), next()], [Verdict::Repeat(Duration::ZERO), Verdict::GiveUp]);
        assert_eq!(judge(&unavailable, Nature { retried: true, ..IDEMPOTENT }), Verdict::GiveUp);
    }

    #[test]
    fn other_failures_are_the_callers() {
        for code in Code::ALL.into_iter().filter(|&code| code != Code::Unavailable) {
            assert_eq!(judge(&Error::new(code, "x"), IDEMPOTENT), Verdict::GiveUp, "{code}");
        }
        let config = Config { codes: vec![Code::Internal], ..Config::default() };
        let verdict =
            |code| super::judge(&config, &Error::new(code, "x"), IDEMPOTENT, &mut History::default());
        assert_eq!(verdict(Code::Internal), Verdict::Repeat(Duration::ZERO));
        assert_eq!(verdict(Code::Unavailable), Verdict::GiveUp);
    }

    #[test]
    fn what_was_repeated_below_is_not_repeated_above() {
        let mut error = Error::unavailable("lost");
        mark(&mut error);
        assert_eq!(judge(&error, IDEMPOTENT), Verdict::GiveUp);
        assert_eq!(judge(&error.with_unsent(), PLAIN), Verdict::Elsewhere, "no handler saw it");
    }

    #[test]
    fn push_back_is_waited_for_where_it_is_short_and_in_time() {
        let busy = |code, wait| Error::new(code, "busy").with_retry_after(wait);
        for code in [Code::Unavailable, Code::ResourceExhausted] {
            assert_eq!(judge(&busy(code, 20 * MS), IDEMPOTENT), Verdict::Repeat(20 * MS));
            assert_eq!(
                judge(&busy(code, 1_000 * MS), IDEMPOTENT),
                Verdict::GiveUp,
                "longer than anybody waits"
            );
            assert_eq!(judge(&busy(code, 20 * MS), PLAIN), Verdict::GiveUp);
            let late = Nature { left: Some(10 * MS), ..IDEMPOTENT };
            assert_eq!(judge(&busy(code, 20 * MS), late), Verdict::GiveUp, "the caller is gone by then");
        }
    }

    #[test]
    fn who_sheds_load_speaks_for_itself_and_a_rate_limit_for_all() {
        let minute = 60_000 * MS;
        let elsewhere = Nature { elsewhere: true, ..IDEMPOTENT };
        for reason in [Shed::InFlight, Shed::QueueFull, Shed::QueueDelay] {
            let shed = Error::shed(reason, "busy", minute);
            assert_eq!(judge(&shed, elsewhere), Verdict::Repeat(Duration::ZERO));
            assert_eq!(
                judge(&shed, IDEMPOTENT),
                Verdict::GiveUp,
                "there is only the one that asks for a minute"
            );
            // It may have been shed by somebody further down, after work was done on the way.
            assert_eq!(judge(&shed, Nature { idempotent: false, ..elsewhere }), Verdict::GiveUp);
        }
        assert_eq!(judge(&Error::shed(Shed::Rate, "quota", minute), elsewhere), Verdict::GiveUp);
    }
}
