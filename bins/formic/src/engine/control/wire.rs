//! The engine's words as messages.

use formic_api::control::v1 as pb;
use formic_core::Error;
use formic_plan::Change as Step;
use formic_reconcile::{
    ChangeKind, Entry, FieldChange, Generation, InstanceView, Line, Refused, ServiceChange, ServiceView,
};
use formic_state::Outcome;

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
        ..Default::default()
    }
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
