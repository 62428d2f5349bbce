//! Cron jobs: the timetable says which runs are due, and its services stand beside the fleet's in what is wanted.
//!
//! It is written down with everything else before a turn is carried out, so a run that is due is due once,
//! whenever the engine dies.

use std::time::Duration;

use formic_plan::{Due, Run, RunState, Service, Time};

use super::Core;
use crate::engine::Refused;
use crate::engine::effects::Effect;
use crate::journal::Kind;
use crate::view::CronView;

impl Core {
    /// Goes on with the cron jobs; says whether anything happened, and when something is due next.
    pub(super) fn tick(&mut self) -> (bool, Option<Time>) {
        let (now, wall) = (self.now.time, self.now.wall());
        let tick = self.timetable.tick(self.roster.observed(), now, wall);
        self.desired.services.extend(tick.services);
        for due in &tick.happened {
            // That it begins goes without saying where it was due only now.
            let just_due = |other: &Due| {
                other.service == due.service
                    && other.run.number == due.run.number
                    && other.run.state == RunState::Waiting
            };
            if !matches!(due.run.state, RunState::Running { .. }) || !tick.happened.iter().any(just_due) {
                let news = self.due(due, "it was asked for");
                self.effects.push(news);
            }
        }
        let due_at = tick.wake_unix_ms.map(|at| now + Duration::from_millis(at.saturating_sub(wall)));
        (!tick.happened.is_empty(), due_at)
    }

    /// Has a job run now. What came of that may be that it is left out.
    pub(super) fn run_now(&mut self, service: &str, cause: &str) -> Result<Run, Refused> {
        if self.is_stopping() || !self.downs.is_empty() {
            return Err(Refused::Stopping);
        }
        if self.fleet.deployment(service).is_some() {
            return Err(Refused::NoCronJob(service.to_owned()));
        }
        if self.timetable.entry(service).is_some_and(formic_plan::Entry::is_stopped) {
            return Err(Refused::StoppedJob(service.to_owned()));
        }
        let happened = self.timetable.run_now(service, self.now.wall());
        let asked = format!("it was asked for by {cause}");
        for due in &happened {
            let news = self.due(due, &asked);
            self.effects.push(news);
        }
        let last = happened.into_iter().next_back().map(|due| due.run);
        last.ok_or_else(|| Refused::Unknown(service.to_owned()))
    }

    /// What is shown of a cron job.
    pub(in crate::engine) fn cron(&self, service: &str) -> Option<CronView> {
        let entry = self.timetable.entry(service)?;
        let cron = entry.service.cron.as_ref()?;
        let last = entry.runs.iter().rev().find(|run| !run.is_open()).cloned();
        Some(CronView {
            schedule: cron.schedule.pattern().to_owned(),
            zone: cron.schedule.zone().to_owned(),
            next_unix_ms: entry.next(self.now.wall()),
            last,
        })
    }

    /// What happened to a run, with its cause.
    fn due(&self, due: &Due, asked: &str) -> Effect {
        let Due { service, run } = due;
        let schedule = self.timetable.entry(service).and_then(|entry| entry.service.cron.as_ref());
        let cause = match (&run.state, schedule) {
            (RunState::Waiting | RunState::Overlapped, _) if run.by_hand => format!("; {asked}"),
            (RunState::Waiting, Some(cron)) => {
                format!(" by its schedule, at {}", cron.schedule.show(run.due_unix_ms))
            }
            (RunState::Missed, Some(cron)) => format!(", at {}", cron.schedule.show(run.due_unix_ms)),
            _ => String::new(),
        };
        self.news(Kind::Run, service, "", format!("run {} {}{cause}", run.number, run.state))
    }
}

/// Services as the engine keeps them: cron jobs, which are no matter of the fleet, after the others.
pub(super) fn in_order(services: Vec<Service>) -> Vec<Service> {
    let (cron, mut others): (Vec<_>, Vec<_>) = services.into_iter().partition(|s| s.cron.is_some());
    others.extend(cron);
    others
}
