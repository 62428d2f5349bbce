//! What happens in a scene, event for event, by its paused clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic_balance::State;
use formic_client::{Client, Happening, Observer, Report};
use formic_core::{Code, InstanceId};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How often states are looked at.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// One reaches an instance.
    Attempt { instance: InstanceId, path: String, user: String },
    /// A call is over for its caller.
    Ended { caller: String, endpoint: Option<String>, code: Option<Code>, took: Duration, attempts: u32 },
    /// What metrics count.
    Happened { caller: String, service: String, what: Happening },
    /// A caller has another opinion of an instance.
    Judged { caller: String, instance: String, state: State, reason: Option<String> },
}

pub(crate) struct Journal {
    began: Instant,
    events: Mutex<Vec<(Duration, Event)>>,
    looks: Mutex<JoinSet<()>>,
}

impl Journal {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), events: Mutex::default(), looks: Mutex::default() })
    }

    pub(crate) fn note(&self, event: Event) {
        self.events.lock().unwrap().push((self.began.elapsed(), event));
    }

    /// Everything up to now.
    pub(crate) fn events(&self) -> Vec<(Duration, Event)> {
        self.events.lock().unwrap().clone()
    }

    /// Who is told of a client's calls.
    pub(crate) fn observer(self: &Arc<Self>, caller: &str) -> Arc<dyn Observer> {
        Arc::new(Caller { journal: Arc::clone(self), name: caller.into() })
    }

    /// Notes of whom a client thinks otherwise, for as long as the scene lasts.
    pub(crate) fn follow(self: &Arc<Self>, caller: &str, client: Client) {
        let (journal, caller) = (Arc::clone(self), caller.to_owned());
        self.looks.lock().unwrap().spawn(async move {
            let mut before = BTreeMap::new();
            loop {
                sleep(LOOK).await;
                let views = client.services().into_iter().flat_map(|name| client.traffic(&name).endpoints);
                for view in views {
                    let now = (view.state, view.reason);
                    if before.insert(view.instance.clone(), now.clone()).as_ref() != Some(&now) {
                        let (caller, instance, (state, reason)) = (caller.clone(), view.instance, now);
                        journal.note(Event::Judged { caller, instance, state, reason });
                    }
                }
            }
        });
    }
}

/// A client's reports.
struct Caller {
    journal: Arc<Journal>,
    name: String,
}

impl Observer for Caller {
    fn on_call(&self, report: &Report<'_>) {
        self.journal.note(Event::Ended {
            caller: self.name.clone(),
            endpoint: report.endpoint.map(ToString::to_string),
            code: report.code,
            took: report.duration,
            attempts: report.attempts,
        });
    }

    fn on_happening(&self, service: &str, what: Happening) {
        let (caller, service) = (self.name.clone(), service.to_owned());
        self.journal.note(Event::Happened { caller, service, what });
    }
}
