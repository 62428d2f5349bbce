//! `job` and `cron`: services that run to an end.

use super::section::{Notes, Section};
use crate::fault::{FaultKind, quote};
use crate::schedule::{Concurrency, Cron, InvalidSchedule, Job, MAX_HISTORY, Schedule};

/// The job, and when it is due if that is again and again. A cron job without `job` has its defaults.
pub(super) fn read(
    section: &mut Section<'_, '_>,
    replicas: Option<std::ops::Range<usize>>,
    notes: &mut Notes<'_>,
) -> (Option<Job>, Option<Cron>) {
    let has_cron = section.get("cron").is_some();
    let mut job = (section.get("job").is_some() || has_cron).then(Job::default);
    if let (Some(mut inner), Some(job)) = (section.section("job", notes), &mut job) {
        job.retries = inner.integer("retries", 0..101, notes).map_or(job.retries, |(number, _)| number);
        job.deadline = inner.duration("deadline", "a duration such as \"10m\"", notes);
        inner.finish(notes);
    }
    if let (true, Some(span)) = (has_cron, replicas) {
        let message = "a cron job has no `replicas`: each run is one instance".to_owned();
        let help = "take it out; `concurrency` in [cron] says whether runs overlap".to_owned();
        notes.push(&span, FaultKind::Conflict, &section.path_of("replicas"), message, Some(help));
    }
    let cron = section.section("cron", notes).and_then(|inner| read_cron(inner, notes));
    (job, cron)
}

fn read_cron(mut inner: Section<'_, '_>, notes: &mut Notes<'_>) -> Option<Cron> {
    let pattern = inner.string("schedule", notes);
    if pattern.is_none() && !inner.has("schedule") {
        let help = "write `schedule = \"0 3 * * *\"` for 3 o'clock every day";
        notes.missing(&inner, inner.span(), "[cron] has no `schedule`", help);
    }
    let zone = inner.string("zone", notes);
    let words =
        [("forbid", Concurrency::Forbid), ("replace", Concurrency::Replace), ("allow", Concurrency::Allow)];
    let concurrency = inner.word("concurrency", &words, notes);
    let history = inner.integer("history", 1..MAX_HISTORY + 1, notes);
    let catch_up = inner.unit("catch_up", "a duration such as \"1m\"", notes);
    let schedule = pattern.and_then(|(text, span)| {
        let name = zone.as_ref().map_or("UTC", |(name, _)| name);
        match Schedule::new(&text, name) {
            Ok(schedule) => Some(schedule),
            Err(fault @ InvalidSchedule::Zone(_)) => {
                let at = zone.as_ref().map_or(&span, |(_, span)| span);
                let help = "write it like \"Europe/Berlin\", or leave it out for UTC";
                notes.invalid(&inner, "zone", at, crate::fault::clean(&fault.to_string()), help);
                None
            }
            Err(fault) => {
                let why = crate::fault::clean(&fault.to_string());
                let message = format!("{} is no schedule: {why}", quote(&text));
                let help = "write minute, hour, day, month and weekday, such as \"0 3 * * *\"";
                notes.invalid(&inner, "schedule", &span, message, help);
                None
            }
        }
    });
    inner.finish(notes);
    let cron = Cron::new(schedule?);
    Some(Cron {
        concurrency: concurrency.unwrap_or(cron.concurrency),
        history: history.map_or(cron.history, |(number, _)| number),
        catch_up: catch_up.unwrap_or(cron.catch_up),
        ..cron
    })
}
