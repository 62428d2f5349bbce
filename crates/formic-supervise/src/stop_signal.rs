//! What a main process is sent when it is to end, by its number here.

pub use formic_core::StopSignal;
use rustix::process::Signal;

pub(crate) fn raw(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Int => Signal::INT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Usr1 => Signal::USR1,
        StopSignal::Usr2 => Signal::USR2,
        StopSignal::Winch => Signal::WINCH,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_word_of_a_manifest_is_the_word_of_a_record() {
        for (word, signal) in StopSignal::WORDS {
            assert_eq!(serde_json::to_value(signal).unwrap(), word);
            assert_eq!(signal.to_string(), format!("SIG{word}"));
        }
        assert!(StopSignal::default().is_default() && !StopSignal::Quit.is_default());
    }
}
