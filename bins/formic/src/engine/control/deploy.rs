//! The service that changes what is wanted: each change makes a whole desired state of the present one or
//! of a manifest, and hands it to the engine with the index that it was made from.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use formic_api::control::v1 as pb;
use formic_core::Error;
use formic_plan::Service;
use formic_reconcile::{Applied, Change, Command, Entry, Generation, Kind, Restarted, diff};
use formic_rpc::{Context, Reply, Request, Streaming, reply};
use formic_spec::{HumanDuration, MAX_REPLICAS, Manifest};
use formic_state::Outcome;
use tokio::sync::oneshot;

use super::intent::Intent;
use super::{Control, by, outlook, wire};
use crate::engine::desired::services;
use crate::engine::facts::Facts;
use crate::engine::{artifacts, files, manifest};
use crate::exit::Failure;

/// The engine answers between two events; what takes longer than this is no answer any more.
const PATIENCE: Duration = Duration::from_secs(10);

impl Control {
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let busy = |error: &dyn std::error::Error| Error::unavailable(error.to_string());
        self.engine.send(command(answer)).map_err(|error| busy(&error))?;
        let answered = tokio::time::timeout(PATIENCE, answered).await.map_err(|error| busy(&error))?;
        answered.map_err(|_| Error::unavailable("the application has stopped"))
    }

    pub(super) async fn history(&self) -> Result<Vec<Arc<Generation>>, Error> {
        self.ask(Command::History).await
    }

    /// The present desired state.
    pub(super) async fn present(&self) -> Result<Arc<Generation>, Error> {
        let last = self.history().await?.pop();
        last.ok_or_else(|| {
            Error::failed_precondition("nothing is wanted yet; `formic apply` starts what the manifest says")
        })
    }

    /// The desired state of a manifest.
    fn wanted(&self, text: &str, built: &HashMap<String, String>) -> Result<(Vec<Service>, Facts), Error> {
        let manifest = Manifest::parse(text, &manifest::shown(&self.about.manifest))
            .map_err(|faults| Error::invalid_argument(manifest::faulty(&faults).to_string()))?;
        if manifest.app.name != self.about.app {
            return Err(Error::failed_precondition(format!(
                "the manifest is that of {:?}, and {:?} runs here; stop it and start the other",
                manifest.app.name, self.about.app
            )));
        }
        if !built.is_empty() {
            self.here_only("an apply of what was built elsewhere")?;
        }
        let mut programs = BTreeMap::new();
        for (package, path) in built {
            let path = PathBuf::from(path);
            if !path.is_absolute() || !path.is_file() {
                return Err(Error::invalid_argument(format!("{package} is not built: {}", path.display()))
                    .with_field(format!("artifacts[{package}]"), "must be the absolute path of a file"));
            }
            programs.insert(package.clone(), path);
        }
        let versions = self.vault.versions().map_err(refused)?;
        let services =
            services(&manifest, &self.folder, &self.artifacts, &programs, &versions).map_err(refused)?;
        Ok((services, Facts::of(&manifest, &self.features, &self.vault)))
    }

    /// Makes a change, and says what it changed.
    pub(crate) async fn change(&self, change: Change) -> Result<pb::ChangeResponse, Error> {
        let before = self.history().await?.pop();
        let was = before.as_ref().map(|present| present.services.as_slice()).unwrap_or_default();
        let changes = diff(was, &change.services);
        let beside = Facts::from_tag(&before.map(|present| present.tag.clone()).unwrap_or_default())
            .changes(&Facts::from_tag(&change.tag));
        let preview = self.ask(|answer| Command::Preview(change.services.clone(), answer)).await?;
        let answer = self.ask(|answer| Command::Change(change, answer)).await?;
        let Applied { index, changed } = answer.map_err(|error| wire::refused(&error))?;
        let changes = if changed { wire::changes(&changes, &preview.steps) } else { Vec::new() };
        let beside = if changed { wire::fields(&beside) } else { Vec::new() };
        Ok(pb::ChangeResponse { index, changed, changes, beside, ..Default::default() })
    }

    pub(super) fn unknown(&self, name: &str) -> Error {
        let view = self.engine.view();
        let view = view.borrow();
        let known: Vec<&str> = view.services.iter().map(|service| service.name.as_str()).collect();
        let near = formic_settings::nearest(name, known.iter().copied());
        let hint = match near {
            Some(near) => format!("did you mean {near:?}?"),
            None if known.is_empty() => {
                "nothing is wanted there now: `formic apply` starts what the manifest says, `formic rollback` what was wanted before".to_owned()
            }
            None => format!("it has {}", known.join(", ")),
        };
        Error::not_found(format!("{} has no service {name:?}; {hint}", self.about.app))
    }
}

pub(super) fn refused(failure: Failure) -> Error {
    Error::failed_precondition(failure.to_string())
}

/// Whether a service can have so many instances.
fn can_scale(service: &Service, replicas: u32) -> Result<(), Error> {
    let (name, start) = (&service.name, &service.start);
    if start.get("system").and_then(serde_json::Value::as_bool) == Some(true) {
        return Err(Error::failed_precondition(format!("{name} is part of Formic and runs once")));
    }
    if service.cron.is_some() {
        return Err(Error::failed_precondition(format!(
            "{name} is a cron job: each run is one instance, and `concurrency` says whether runs overlap"
        )));
    }
    if replicas > MAX_REPLICAS {
        return Err(Error::invalid_argument(format!(
            "{replicas} instances of {name} are more than {MAX_REPLICAS}"
        )));
    }
    let port = start.get("port").and_then(serde_json::Value::as_u64).map(|port| format!("port {port}"));
    let listen =
        start.get("env").and_then(|env| env.get("FORMIC_LISTEN")).and_then(serde_json::Value::as_str);
    let fixed = port.or_else(|| listen.filter(|listen| !listen.ends_with(":0")).map(str::to_owned));
    match fixed {
        Some(fixed) if replicas > 1 => {
            Err(Error::failed_precondition(format!("{replicas} instances of {name} cannot share {fixed}")))
        }
        _ => Ok(()),
    }
}

/// The newest of the earlier states that is another than the present one, and did not fail: after an update that went
/// back by itself, that one is not wanted again.
fn before(history: &[Arc<Generation>]) -> Option<&Arc<Generation>> {
    let (present, earlier) = history.split_last()?;
    let worked =
        |state: &&Arc<Generation>| !matches!(state.outcome, Some(Outcome::Failed | Outcome::Reverted));
    let other = |state: &&Arc<Generation>| state.services != present.services || state.tag != present.tag;
    earlier.iter().rev().filter(worked).find(other)
}

/// So many of the last events of a service are told with the reason of its state.
const LATELY: usize = 4;

/// What happened to a service last, and when.
fn lately(entries: &[Entry], service: &str, now: i64) -> String {
    let ago = |entry: &Entry| {
        let millis = u64::try_from(now.saturating_sub(entry.unix_ms)).unwrap_or_default();
        HumanDuration::rough(Duration::from_millis(millis))
    };
    let line = |entry: &Entry| {
        let who = if entry.instance.is_empty() { "it" } else { &entry.instance };
        // A rollout has a name of its own, and a wait says whose it is; so do the others.
        let named = matches!(entry.kind, Kind::Rollout | Kind::Wait | Kind::Run | Kind::Traffic);
        let who = if named { "" } else { who };
        format!("{} ago {who} {}", ago(entry), entry.text).replace("  ", " ")
    };
    // Steps of a rollout come many at a time, and the newest says how far it is: the others would hide what happened before.
    let mut rollouts = 0;
    let is_told = |entry: &&Entry| {
        rollouts += u32::from(entry.kind == Kind::Rollout && entry.service == service);
        entry.service == service && (entry.kind != Kind::Rollout || rollouts == 1)
    };
    let mut last: Vec<&Entry> = entries.iter().rev().filter(is_told).take(LATELY).collect();
    last.reverse();
    let lines: Vec<String> = last.into_iter().map(line).collect();
    if lines.is_empty() { String::new() } else { format!(" Lately: {}.", lines.join("; ")) }
}

pub(super) fn now_unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

impl pb::DeployService for Control {
    async fn plan(&self, _: Context, request: Request<'_, pb::PlanRequest>) -> Reply<pb::PlanResponse> {
        let request = request.to_owned_message();
        let (services, facts) = self.wanted(&request.manifest, &request.artifacts.into_iter().collect())?;
        let preview = self.ask(|answer| Command::Preview(services.clone(), answer)).await?;
        let before =
            self.history().await?.pop().map(|present| Facts::from_tag(&present.tag)).unwrap_or_default();
        reply(pb::PlanResponse {
            index: preview.index,
            changes: wire::changes(&diff(&preview.services, &services), &preview.steps),
            actions: outlook::actions(&preview, &services),
            beside: wire::fields(&before.changes(&facts)),
            notes: facts.notes,
            ..Default::default()
        })
    }

    async fn apply(
        &self,
        context: Context,
        request: Request<'_, pb::ApplyRequest>,
    ) -> Reply<pb::ChangeResponse> {
        let request = request.to_owned_message();
        let (services, facts) = self.wanted(&request.manifest, &request.artifacts.into_iter().collect())?;
        let tag = facts.tag().map_err(refused)?;
        let cause = by("apply", &context);
        reply(self.change(Change { services, tag, index: request.index, cause }).await?)
    }

    async fn scale(
        &self,
        context: Context,
        request: Request<'_, pb::ScaleRequest>,
    ) -> Reply<pb::ChangeResponse> {
        let request = request.to_owned_message();
        let present = self.present().await?;
        let mut services = present.services.clone();
        let mut facts = Facts::from_tag(&present.tag);
        let wanted: BTreeMap<String, u32> = request.replicas.into_iter().collect();
        for (name, replicas) in &wanted {
            let service = services.iter_mut().find(|service| service.name == *name);
            let service = service.ok_or_else(|| self.unknown(name))?;
            can_scale(service, *replicas)?;
            match (service.replicas, *replicas) {
                // As a stop: `start` brings back as many as there were.
                (before @ 1.., 0) => drop(facts.stopped.insert(name.clone(), before)),
                (0, 0) => {}
                // Who says how many there are to be wants them to run.
                _ => drop(facts.stopped.remove(name)),
            }
            service.replicas = *replicas;
        }
        let asked: Vec<String> = wanted.iter().map(|(name, replicas)| format!("{name}={replicas}")).collect();
        let index = Some(request.index.unwrap_or(present.index));
        let cause = by(format_args!("scale {}", asked.join(" ")), &context);
        let tag = facts.tag().map_err(refused)?;
        reply(self.change(Change { services, tag, index, cause }).await?)
    }

    async fn restart(
        &self,
        context: Context,
        request: Request<'_, pb::RestartRequest>,
    ) -> Reply<pb::RestartResponse> {
        let names: Vec<String> = request.services.iter().map(|name| (*name).to_owned()).collect();
        let known = |name: &&String| self.engine.view().borrow().services.iter().any(|s| s.name == **name);
        if let Some(unknown) = names.iter().find(|name| !known(name)) {
            return Err(self.unknown(unknown));
        }
        let cause = by(format_args!("restart {}", names.join(" ")), &context);
        let answer = self.ask(|answer| Command::Restart { services: names, cause, answer }).await?;
        let Restarted { index, instances } = answer.map_err(|error| wire::refused(&error))?;
        reply(pb::RestartResponse { instances, index, ..Default::default() })
    }

    async fn stop_services(
        &self,
        context: Context,
        request: Request<'_, pb::ServicesRequest>,
    ) -> Reply<pb::ChangeResponse> {
        reply(self.intend(Intent::Stop, request.to_owned_message(), &context).await?)
    }

    async fn start_services(
        &self,
        context: Context,
        request: Request<'_, pb::ServicesRequest>,
    ) -> Reply<pb::ChangeResponse> {
        reply(self.intend(Intent::Start, request.to_owned_message(), &context).await?)
    }

    async fn remove_services(
        &self,
        context: Context,
        request: Request<'_, pb::ServicesRequest>,
    ) -> Reply<pb::ChangeResponse> {
        reply(self.intend(Intent::Remove, request.to_owned_message(), &context).await?)
    }

    async fn pause(
        &self,
        context: Context,
        request: Request<'_, pb::PauseRequest>,
    ) -> Reply<pb::PauseResponse> {
        reply(self.pause(request.service, false, &context).await?)
    }

    async fn resume(
        &self,
        context: Context,
        request: Request<'_, pb::PauseRequest>,
    ) -> Reply<pb::PauseResponse> {
        reply(self.pause(request.service, true, &context).await?)
    }

    async fn rollback(
        &self,
        context: Context,
        request: Request<'_, pb::RollbackRequest>,
    ) -> Reply<pb::ChangeResponse> {
        let (to, index) = (request.to, request.index);
        let history = self.history().await?;
        let present = self.present().await?;
        let target = match to {
            Some(to) => history.iter().find(|state| state.index == to),
            None => before(&history),
        };
        let target = target.ok_or_else(|| match to {
            Some(to) => {
                Error::not_found(format!("no state of index {to} is kept; `formic history` lists them"))
            }
            None => Error::failed_precondition(
                "there is nothing earlier to go back to that did not fail; \
                 `formic history` lists what was, and `formic rollback <index>` takes any of it",
            ),
        })?;
        if target.services == present.services && target.tag == present.tag {
            return Err(Error::failed_precondition(format!(
                "index {} is what is wanted already",
                target.index
            )));
        }
        let lost = artifacts::lost(&target.services);
        if !lost.is_empty() {
            return Err(Error::failed_precondition(format!(
                "the program of {} at index {} is gone: a later build took its place",
                lost.join(", "),
                target.index
            )));
        }
        let changed = files::changed(&target.services, &self.folder, &self.artifacts);
        if !changed.is_empty() {
            return Err(Error::failed_precondition(files::refusal(&changed, target.index, &self.folder)));
        }
        let lost = self.vault.lost(&target.services);
        if !lost.is_empty() {
            return Err(Error::failed_precondition(format!(
                "index {} has versions of secrets that are not kept any more: {}",
                target.index,
                lost.join(", ")
            )));
        }
        let change = Change {
            services: target.services.clone(),
            tag: (*target.tag).clone(),
            index: Some(index.unwrap_or(present.index)),
            cause: by(format_args!("rollback to {}", target.index), &context),
        };
        reply(self.change(change).await?)
    }

    async fn history(&self, _: Context, _: Request<'_, pb::HistoryRequest>) -> Reply<pb::HistoryResponse> {
        let history = Self::history(self).await?;
        let generations =
            history.iter().rev().enumerate().map(|(at, state)| wire::generation(state, at == 0)).collect();
        reply(pb::HistoryResponse { generations, ..Default::default() })
    }

    async fn events(
        &self,
        _: Context,
        request: Request<'_, pb::EventsRequest>,
    ) -> Reply<Streaming<pb::Event>> {
        let services: Vec<String> = request.services.iter().map(|name| (*name).to_owned()).collect();
        let (follow, tail) = (request.follow, request.tail as usize);
        let about = move |entry: &formic_reconcile::Entry| {
            services.is_empty() || entry.service.is_empty() || services.contains(&entry.service)
        };
        let journal = self.engine.journal().clone();
        let mut last = journal.last();
        let mut seen = 0;
        let mut queue: VecDeque<_> = journal.since(0).into();
        seen = queue.back().map_or(seen, |entry| entry.sequence);
        queue.retain(&about);
        if tail > 0 && queue.len() > tail {
            queue.drain(..queue.len() - tail);
        }
        last.mark_unchanged();
        let state = (queue, seen, last, self.engine.view());
        reply(self.until_stopped(Streaming::new(futures::stream::unfold(
            state,
            move |(mut queue, mut seen, mut last, mut view)| {
                let (journal, about) = (journal.clone(), about.clone());
                async move {
                    loop {
                        if let Some(entry) = queue.pop_front() {
                            return Some((Ok(wire::event(entry)), (queue, seen, last, view)));
                        }
                        if !follow {
                            return None;
                        }
                        if *last.borrow_and_update() == seen {
                            // The view ends with the engine, the journal with its last reader.
                            tokio::select! {
                                changed = last.changed() => changed.ok()?,
                                () = async { while view.changed().await.is_ok() {} } => return None,
                            }
                        }
                        let news = journal.since(seen);
                        seen = news.last().map_or(seen, |entry| entry.sequence);
                        queue.extend(news.into_iter().filter(&about));
                    }
                }
            },
        ))))
    }

    async fn why(&self, _: Context, request: Request<'_, pb::WhyRequest>) -> Reply<pb::WhyResponse> {
        let name = request.service;
        let text = self.ask(|answer| Command::Why(name.to_owned(), answer)).await?;
        let mut text = text.ok_or_else(|| self.unknown(name))?;
        text.push_str(&lately(&self.engine.journal().since(0), name, now_unix_ms()));
        reply(pb::WhyResponse { text, ..Default::default() })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use formic_spec::{HumanDuration, Revision};
    use serde_json::{Value, json};

    use super::*;

    fn service(replicas: u32, start: Value) -> Service {
        Service {
            name: "order".into(),
            revision: Revision::of(&json!(1)),
            replicas,
            process: None,
            depends_on: Vec::new(),
            conditions: Default::default(),
            dependents: Default::default(),
            update: Default::default(),
            job: None,
            cron: None,
            sets: None,
            completed: false,
            ready_within: HumanDuration::from_secs(1),
            grace: HumanDuration::from_secs(1),
            start,
        }
    }

    #[test]
    fn what_cannot_be_scaled_says_why() {
        let fails = |start: Value, replicas| can_scale(&service(1, start), replicas).unwrap_err().to_string();
        assert!(fails(json!({ "system": true }), 1).contains("part of Formic"));
        assert!(fails(json!({ "port": 80 }), 2).contains("cannot share port 80"));
        assert!(fails(json!({ "env": { "FORMIC_LISTEN": "127.0.0.1:7" } }), 2).contains("127.0.0.1:7"));
        assert!(fails(Value::Null, 10_001).contains("more than 10000"));
        can_scale(&service(1, json!({ "port": 80 })), 1).unwrap();
        can_scale(&service(1, json!({ "env": { "FORMIC_LISTEN": "127.0.0.1:0" } })), 9).unwrap();
    }

    #[test]
    fn what_happened_last_is_told_with_its_age() {
        let entry = |unix_ms, kind, service: &str, instance: &str, text: &str| Entry {
            sequence: 0,
            unix_ms,
            kind,
            service: service.into(),
            instance: instance.into(),
            text: text.into(),
        };
        let entries = [
            entry(0, Kind::Start, "user", "user-1", "starts"),
            entry(1_000, Kind::Rollout, "order", "", "rollout 2: succeeded"),
            entry(7_500, Kind::Traffic, "order", "", "order-1 counts again with web-1"),
            entry(7_750, Kind::Exit, "order", "order-1", "ended by itself: exit code 3"),
        ];
        assert_eq!(
            lately(&entries, "order", 8_000),
            " Lately: 7s ago rollout 2: succeeded; 500ms ago order-1 counts again with web-1; \
             250ms ago order-1 ended by itself: exit code 3."
        );
        assert_eq!(lately(&entries, "nobody", 8_000), "");
        // The steps of a rollout after it hide nothing.
        let steps = (0..9).map(|n| entry(8_000 + n, Kind::Rollout, "order", "", "rollout 3: goes on"));
        let told = lately(&entries.into_iter().chain(steps).collect::<Vec<_>>(), "order", 9_000);
        assert!(told.contains("exit code 3") && told.matches("rollout").count() == 1, "{told}");
    }

    #[test]
    fn the_state_to_go_back_to_is_the_newest_other_one() {
        let with = |index, replicas, outcome| {
            Arc::new(Generation {
                index,
                unix_ms: 0,
                cause: String::new(),
                services: vec![service(replicas, Value::Null)],
                tag: Arc::default(),
                outcome,
                why: String::new(),
                restarted: Vec::new(),
            })
        };
        let state = |index, replicas| with(index, replicas, None);
        let failed = |index, replicas| with(index, replicas, Some(Outcome::Reverted));
        let index = |history: &[Arc<Generation>]| before(history).map(|state| state.index);
        assert_eq!(index(&[]), None);
        assert_eq!(index(&[state(1, 1)]), None);
        assert_eq!(index(&[state(1, 1), state(2, 2)]), Some(1));
        assert_eq!(index(&[state(1, 1), state(2, 2), state(3, 1)]), Some(2));
        assert_eq!(index(&[state(1, 1), state(2, 2), state(3, 2)]), Some(1));
        // 3 is the way back from 2.
        assert_eq!(index(&[state(1, 1), failed(2, 2), state(3, 1)]), None);
        assert_eq!(index(&[state(1, 5), state(2, 1), failed(3, 2), state(4, 1)]), Some(1));
    }
}
