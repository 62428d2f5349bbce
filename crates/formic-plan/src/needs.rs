//! Whether a service has come as far as those that depend on it wait for.

use formic_spec::Condition;

use crate::life::{Instance, State};
use crate::state::Service;

/// Whether a service meets a condition: what holds its slots does, or, where it is to have come to its end, `completed` says so.
pub(crate) fn met<'a>(
    condition: Condition,
    mut holders: impl Iterator<Item = &'a Instance>,
    completed: impl FnOnce() -> bool,
) -> bool {
    match condition {
        // What has run to its end has surely been started.
        Condition::Started => {
            holders.any(|instance| {
                let runs = matches!(
                    instance.state,
                    State::Ready { .. } | State::Starting { .. } | State::Unready { .. }
                );
                runs || instance.is_completed()
            }) || completed()
        }
        Condition::Healthy => holders.any(Instance::is_ready),
        Condition::Completed => completed(),
    }
}

/// Whether a service has come to its end as it is wanted now: what another revision has done does not count, nor how one ended
/// whose slot is not wanted any more.
pub(crate) fn is_completed<'a>(service: &Service, holders: impl Iterator<Item = &'a Instance>) -> bool {
    // Of a cron job nothing is wanted between its runs: the last one counts.
    if service.cron.is_some() {
        return have_completed(holders, 1, |_| true);
    }
    let is_wanted = |i: &Instance| service.at(i.slot).is_some_and(|template| i.is_restarted_by(&template));
    // Of a job that rests nothing need be known any more but that.
    service.completed || have_completed(holders, service.places().max(service.replicas as usize), is_wanted)
}

/// Whether so many of those that are wanted have come to their end, and nothing runs.
pub(crate) fn have_completed<'a>(
    holders: impl Iterator<Item = &'a Instance>,
    wanted: usize,
    is_wanted: impl Fn(&Instance) -> bool,
) -> bool {
    let mut completed = 0;
    for instance in holders {
        if instance.is_live() {
            return false;
        }
        completed += usize::from(instance.is_completed() && is_wanted(instance));
    }
    wanted > 0 && completed >= wanted
}
