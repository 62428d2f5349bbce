//! What `formic up` shows: the table when it changes for the better or the worse, notices, logs.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use formic_client::Client;
use formic_core::Kind;
use formic_plan::ServiceState;
use formic_reconcile::{Logs, Notice, ServiceView, View, on_terminal, plain};
use formic_registry::{DynRegistry, Memory};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::engine::control::Control;
use crate::output::{self, talk};
use crate::reflect;
use crate::verbs::logs::{Prefixes, Style};
use crate::verbs::status;

/// How often logs are looked at.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) struct Show {
    /// Told once nobody reads what is shown.
    pub(crate) unread: CancellationToken,
    pub(crate) control: Control,
    pub(crate) registry: DynRegistry,
    pub(crate) logs: PathBuf,
    /// Whose lines there will be.
    pub(crate) services: Vec<String>,
    pub(crate) quiet: bool,
    pub(crate) json: bool,
    pub(crate) started: Instant,
}

impl Show {
    /// Shows until the engine ends.
    pub(crate) async fn run(self) {
        let mut view = self.control.engine.view();
        let mut notices = self.control.engine.notices();
        let secrets = Arc::clone(self.control.vault.secrets.state());
        let mut logs = Logs::new(self.logs.clone(), Vec::new()).without_secrets(secrets);
        logs.skip();
        let mut prefixes = Prefixes::new(&self.services, Style::of_output());
        let mut known: Vec<(String, ServiceState, u32)> = Vec::new();
        let mut greeted = false;
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                changed = view.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let now = view.borrow_and_update().clone();
                    self.changed(&now, &mut known, &mut greeted).await;
                }
                notice = notices.recv() => match notice {
                    Ok(notice) => self.notice(&notice),
                    // Missed some: the table has what matters.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                _ = look.tick() => self.print(&mut logs, &mut prefixes).await,
            }
        }
        self.print(&mut logs, &mut prefixes).await;
    }

    /// A line of data. That its reader has gone (a closed pipe or terminal) must not end the process on the
    /// spot: the services would be left running.
    fn say(&self, text: &str) {
        if output::try_line(text).is_err() {
            self.unread.cancel();
        }
    }

    async fn print(&self, logs: &mut Logs, prefixes: &mut Prefixes) {
        if self.quiet || self.json {
            return;
        }
        for line in logs.more().await.unwrap_or_default() {
            self.say(&prefixes.line(&line.service, &line.text));
        }
    }

    fn notice(&self, notice: &Notice) {
        if self.json {
            let value =
                serde_json::json!({ "notice": notice.text, "service": notice.service, "log": notice.log });
            self.say(&value.to_string());
            return;
        }
        talk(&format!("! {} {}", notice.service, plain(&notice.text)));
        // With the logs streaming by, the lines have been seen.
        if self.quiet
            || notice.text.contains("did not get ready")
            || notice.text.contains("cannot be started")
        {
            let terminal = std::io::stderr().is_terminal();
            for line in &notice.log {
                let shown = terminal.then(|| on_terminal(line, output::colour(terminal)));
                talk(&format!("    {}", shown.as_deref().unwrap_or(line)));
            }
        }
    }

    /// Prints the table when a service's state or restarts changed, once there is something to see.
    async fn changed(&self, view: &View, known: &mut Vec<(String, ServiceState, u32)>, greeted: &mut bool) {
        let restarts = |s: &ServiceView| s.instances.iter().map(|i| i.restarts).sum::<u32>();
        // The runs of a cron job come and go; that one failed is told by a notice.
        let state = |s: &ServiceView| if s.cron.is_some() { ServiceState::Scheduled } else { s.state };
        let states: Vec<_> = view.services.iter().map(|s| (s.name.clone(), state(s), restarts(s))).collect();
        if states == *known {
            return;
        }
        let settled = |state: ServiceState| {
            !matches!(state, ServiceState::Pending | ServiceState::Starting | ServiceState::Stopping)
        };
        let news = states.iter().any(|state| settled(state.1) && !known.contains(state));
        let status = self.control.status_of(view);
        if self.json {
            *known = states;
            self.say(&status::to_json(&status).to_string());
            return;
        }
        if view.services.iter().all(|s| s.wanted == 0 && s.cron.is_none()) {
            // On the way out the order is what matters, not the table.
            for gone in
                states.iter().filter(|state| state.1 == ServiceState::Stopped && !known.contains(state))
            {
                talk(&format!("stopped {}", gone.0));
            }
            *known = states;
            return;
        }
        let count = |of: &[(String, ServiceState, u32)]| {
            let ready = |state| {
                matches!(state, ServiceState::Ready | ServiceState::Completed | ServiceState::Scheduled)
            };
            of.iter().filter(|s| ready(s.1)).count()
        };
        let (ready, before) = (count(&states), count(known));
        let failed: Vec<_> = view
            .services
            .iter()
            .filter(|s| !known.contains(&(s.name.clone(), state(s), restarts(s))) && is_failure(state(s)))
            .collect();
        *known = states;
        if view.is_ready() && !*greeted {
            *greeted = true;
            self.say(&status::render(&status, output::limit()));
            talk(&format!("\nready in {:.2} s", self.started.elapsed().as_secs_f64()));
            self.hints(&status).await;
        } else if *greeted && news {
            self.say(&status::render(&status, output::limit()));
        } else if !*greeted {
            if std::io::stderr().is_terminal() && (ready != before || before == 0) && failed.is_empty() {
                talk(&format!("starting: {ready} of {} ready", view.services.len()));
            }
            for service in failed {
                talk(&format!("! {} {}: {}", service.name, service.state, service.reason));
            }
        }
    }

    async fn hints(&self, status: &formic_api::control::v1::StatusResponse) {
        if !status.gateway.is_empty() {
            talk(&format!("gateway {}", status.gateway));
            let example = tokio::time::timeout(PATIENCE, example(&self.registry, &self.control)).await;
            if let Ok(Some((path, data))) = example {
                talk(&format!(
                    "try     curl -H 'Content-Type: application/json' -d '{data}' {}{path}",
                    status.gateway
                ));
            }
        }
        talk("Ctrl-C stops everything");
    }
}

/// What people should know about at once, even before everything has been ready.
fn is_failure(state: ServiceState) -> bool {
    matches!(state, ServiceState::Backoff | ServiceState::CrashLooping | ServiceState::Failed)
}

/// Finding an example to try must not hold up anything for long; services that have just begun may be slow to tell.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A call that works as it is: an exposed method without effects, best one that searches.
async fn example(registry: &DynRegistry, control: &Control) -> Option<(String, String)> {
    let exposed = control.exposed();
    let snapshot = registry.watch(None).next().await.ok()?;
    let mut found = None;
    for instance in snapshot.instances.iter().filter(|i| exposed.contains(&i.service.to_string())) {
        for rpc in &instance.rpc {
            for method in rpc.methods.iter().filter(|m| m.safe && m.kind == Kind::Unary) {
                let searches = method.name.starts_with("Search") || method.name.starts_with("Find");
                if found.is_none() || searches {
                    found = Some((instance, rpc.name.clone(), method.name.clone()));
                }
            }
        }
    }
    let (instance, service, method) = found?;
    let client = Client::new(Arc::new(Memory::new()), formic_client::Config::default());
    let schema =
        reflect::schema(&client.at(instance.endpoint.clone()), std::slice::from_ref(&service)).await.ok()?;
    let input = &schema.services.first()?.methods.iter().find(|m| m.name == method)?.input;
    let text =
        schema.messages.get(input)?.iter().find(|f| f.kind == "string" && TEXT.contains(&f.name.as_str()));
    let data = text.map_or_else(|| "{}".to_owned(), |field| format!("{{\"{}\":\"lamp\"}}", field.name));
    Some((format!("/{service}/{method}"), data))
}

/// Fields that take any words.
const TEXT: [&str; 4] = ["text", "query", "q", "name"];
