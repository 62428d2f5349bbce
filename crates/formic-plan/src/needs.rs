//! Whether a service has come as far as those that depend on it wait for.

use formic_spec::Condition;

use crate::life::{Instance, State};

/// Whether a service that holds these instances meets a condition.
pub(crate) fn met<'a>(condition: Condition, instances: impl Iterator<Item = &'a Instance>) -> bool {
    let (mut runs, mut ready, mut completed, mut other) = (false, false, false, false);
    for instance in instances {
        match instance.state {
            State::Ready { .. } => (runs, ready) = (true, true),
            State::Starting { .. } | State::Unready { .. } => runs = true,
            _ if instance.is_completed() => completed = true,
            _ => other = true,
        }
    }
    match condition {
        // What has run to its end has surely been started.
        Condition::Started => runs || completed,
        Condition::Healthy => ready,
        Condition::Completed => completed && !runs && !other,
    }
}
