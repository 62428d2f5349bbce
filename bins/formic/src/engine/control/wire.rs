//! The engine's words as messages.

use std::sync::LazyLock;

use formic_api::control::v1 as pb;
use formic_core::Error;
use formic_plan::Change as Step;
use formic_reconcile::{
    ChangeKind, Entry, FieldChange, Generation, InstanceView, Line, LogPlace, Probed, Refused, ServiceChange,
    ServiceView,
};
use formic_state::Outcome;
use formic_supervise::{Account, Rights};

use super::cron;

pub(super) fn service(s: &ServiceView) -> pb::ServiceStatus {
    pb::ServiceStatus {
        name: s.name.clone(),
        version: s.version.clone(),
        state: s.state.to_string(),
        ready: s.ready,
        wanted: s.wanted,
        instances: s.instances.iter().map(|i| instance(i)).collect(),
        system: s.system,
        reason: s.reason.clone(),
        rollout: s.rollout.into(),
        rollout_failure: s.rollout_failure.clone(),
        rollout_number: s.rollout_number,
        restarts: s.restarts,
        cron: s.cron.as_ref().map(|cron| cron::status(&s.name, cron)).map(Into::into).unwrap_or_default(),
        ..Default::default()
    }
}

fn instance(i: &InstanceView) -> pb::InstanceStatus {
    pb::InstanceStatus {
        id: i.id.clone(),
        slot: i.slot,
        version: i.version.clone(),
        state: i.state.into(),
        address: i.address.clone(),
        pid: i.pid,
        restarts: i.restarts,
        started_unix_ms: i.started_unix_ms,
        last_exit: i.last_exit.clone(),
        probe_failure: (!i.probe_failure.is_empty())
            .then(|| pb::ProbeFailure { reason: i.probe_failure.clone(), ..Default::default() })
            .into(),
        ..Default::default()
    }
}

/// The same with how often and when.
pub(super) fn probe_failure(failure: Option<&pb::ProbeFailure>, probed: &Probed) -> Option<pb::ProbeFailure> {
    // One that has just answered is told to fail until the engine has heard of it.
    let in_row = if failure.is_some() { probed.in_row.max(1) } else { probed.in_row };
    let last_unix_ms = probed.failed_unix_ms.filter(|_| in_row > 0)?;
    let reason = failure.map(|failure| failure.reason.clone()).unwrap_or_default();
    Some(pb::ProbeFailure { reason, in_row, last_unix_ms, ..Default::default() })
}

pub(super) fn rights(rights: &Rights) -> pb::Rights {
    // Who this engine runs as does not change.
    static OWN: LazyLock<Account> = LazyLock::new(|| {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let name = Account::find(&uid.to_string(), None).ok().and_then(|account| account.name);
        Account { name, uid, gid, groups: Vec::new(), home: None }
    });
    let account = rights.account.as_ref().unwrap_or(&OWN);
    let ulimits = rights.bounds.map(|bounds| bounds.ulimits);
    pb::Rights {
        user: account.name.clone().unwrap_or_default(),
        uid: account.uid,
        gid: account.gid,
        no_new_privileges: rights.bounds.map(|bounds| bounds.no_new_privileges),
        nofile: ulimits.and_then(|ulimits| ulimits.nofile),
        nproc: ulimits.and_then(|ulimits| ulimits.nproc),
        core: ulimits.map(|ulimits| ulimits.core),
        ..Default::default()
    }
}

pub(super) fn line(line: Line) -> pb::LogLine {
    pb::LogLine {
        service: line.service,
        instance: line.instance,
        stream: line.stream.into(),
        line: line.text,
        unix_ms: line.unix_ms,
        told_by: line.told_by.as_str().into(),
        next: line.next,
        ..Default::default()
    }
}

/// The places before all lines.
pub(super) fn places(places: Vec<LogPlace>) -> pb::LogLine {
    let place = |LogPlace { service, instance, stream, offset }| pb::LogPlace {
        service,
        instance,
        stream,
        offset,
        ..Default::default()
    };
    let places = pb::LogPlaces { files: places.into_iter().map(place).collect(), ..Default::default() };
    pb::LogLine { places: places.into(), ..Default::default() }
}

/// The places that somebody goes on at.
pub(super) fn place(place: pb::LogPlace) -> LogPlace {
    let pb::LogPlace { service, instance, stream, offset, .. } = place;
    LogPlace { service, instance, stream, offset }
}

pub(super) fn event(entry: Entry) -> pb::Event {
    pb::Event {
        sequence: entry.sequence,
        unix_ms: entry.unix_ms,
        kind: entry.kind.as_str().into(),
        service: entry.service,
        instance: entry.instance,
        text: entry.text,
        ..Default::default()
    }
}

/// What differs, field by field.
pub(super) fn fields(changes: &[FieldChange]) -> Vec<pb::FieldChange> {
    let field = |change: &FieldChange| pb::FieldChange {
        field: change.field.clone(),
        from: change.from.clone(),
        to: change.to.clone(),
        ..Default::default()
    };
    changes.iter().map(field).collect()
}

/// The changes, and how each is brought about where that is known.
pub(super) fn changes(changes: &[ServiceChange], steps: &[(String, Step)]) -> Vec<pb::ServiceChange> {
    let how = |name: &str| match steps.iter().find(|(service, _)| service == name) {
        Some((_, Step::Rollout(_))) => "rollout",
        Some((_, Step::InPlace)) => "in-place",
        _ => "",
    };
    let change = |change: &ServiceChange| pb::ServiceChange {
        service: change.service.clone(),
        change: change.change.as_str().into(),
        how: how(&change.service).into(),
        // Of an added service all fields are new; its name says it.
        fields: match change.change {
            ChangeKind::Added => Vec::new(),
            _ => fields(&change.fields),
        },
        ..Default::default()
    };
    changes.iter().map(change).collect()
}

/// A state of the history; `present` for the last one.
pub(super) fn generation(generation: &Generation, present: bool) -> pb::Generation {
    let outcome = match generation.outcome {
        Some(Outcome::Failed) => "failed",
        _ if present => "current",
        outcome => outcome.map(Outcome::as_str).unwrap_or_default(),
    };
    let service = |service: &formic_plan::Service| pb::GenerationService {
        name: service.name.clone(),
        version: service.revision.short().into(),
        replicas: service.replicas,
        ..Default::default()
    };
    pb::Generation {
        index: generation.index,
        unix_ms: generation.unix_ms,
        cause: generation.cause.clone(),
        services: generation.services.iter().map(service).collect(),
        outcome: outcome.into(),
        why: generation.why.clone(),
        ..Default::default()
    }
}

pub(super) fn refused(refused: &Refused) -> Error {
    let text = refused.to_string();
    match refused {
        Refused::Stale { .. } => Error::aborted(text),
        Refused::Unknown(_) => Error::not_found(text),
        _ => Error::failed_precondition(text),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_fails_has_failed_at_least_once() {
        let told = pb::ProbeFailure { reason: "no route".into(), ..Default::default() };
        let probed = |in_row, failed_unix_ms| Probed { in_row, failed_unix_ms, ..Probed::default() };
        let failure = |told: Option<&pb::ProbeFailure>, probed: Probed| {
            probe_failure(told, &probed).map(|failure| (failure.in_row, failure.last_unix_ms))
        };
        assert_eq!(failure(Some(&told), probed(3, Some(7))), Some((3, 7)));
        // It has answered, and the engine is about to hear of it.
        assert_eq!(failure(Some(&told), probed(0, Some(7))), Some((1, 7)));
        assert_eq!(failure(None, probed(0, Some(7))), None);
        assert_eq!(probe_failure(None, &probed(1, Some(7))).unwrap().reason, "");
        // Not asked so far by this engine: what the one before it knew is told, and no number.
        assert_eq!(failure(Some(&told), probed(0, None)), None);
    }
}
